"""A worker with memory for half of its shard reads the rest from a slow disk for every token: how
long a token takes against reading alone, and against computing and the network alone. In the lab.

Four processes with equal shares; one of them has a control group that limits memory and reading.
Alone: the same cluster without limits, and what was really read over the rate of the disk.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import TYPE_CHECKING, Final

from halo_edge.bench import markdown
from halo_edge.bench.experiment import Experiment, Settings, Size, Tell, by_itself
from halo_edge.bench.lab_cluster import LabSample, lab_spec, open_lab_cluster
from halo_edge.bench.markdown import Column
from halo_edge.bench.median import Interval, median_of
from halo_edge.bench.plot import COLOURS, axes
from halo_edge.cluster.worker_memory import MEMORY_SHARE
from halo_edge.lab.lab import DeviceUsage
from halo_edge.lab.link import LinkSettings
from halo_edge.lab.shapes import read_shape
from halo_edge.lab.spec import LabSpec
from halo_edge.plan.memory import bytes_for
from halo_edge.plan.model_shape import ModelShape

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DEVICES: Final = 4
WORKER: Final = "n1"
LINK: Final = LinkSettings(delay_ms=0.5)
# Of a card, a USB stick and a solid-state disk on a Raspberry Pi, MB/s.
RATES: Final = (40, 90, 400)
# In which buffers fill and timers learn how late the worker is.
SETTLE: Final = 4
# Of every layer: beside the half that stays, room for what is read ahead.
AHEAD_GROUPS: Final = 2


@dataclass(frozen=True)
class Case:
    """`mb_s`: that the worker may read; None: neither this nor its memory is limited."""

    mb_s: int | None

    @property
    def name(self) -> str:
        return "no limit" if self.mb_s is None else f"{self.mb_s} MB/s"

    def spec(self, shape: ModelShape) -> LabSpec:
        made = lab_spec("bench-loading", DEVICES, link=LINK)
        if self.mb_s is None:
            return made
        limited = replace(
            made.device(WORKER),
            memory_bytes=memory_bytes(shape),
            storage_bytes_per_s=self.mb_s * 1e6,
        )
        devices = (limited if d.name == WORKER else d for d in made.devices)
        return replace(made, devices=tuple(devices))


def memory_bytes(shape: ModelShape) -> int:
    """With which a worker can keep half of its share."""
    half = shape.partition.n_groups / DEVICES / 2
    return int(bytes_for(half + AHEAD_GROUPS, shape) / MEMORY_SHARE)


@dataclass(frozen=True)
class Sample:
    """Of the worker: `read_bytes`, a token; `usage`, in all; `limit_bytes`, of its memory."""

    lab: LabSample
    read_bytes: float
    usage: DeviceUsage
    limit_bytes: int | None

    def __str__(self) -> str:
        return (
            f"{self.lab.decoding}, {self.read_bytes / 1e6:.1f} MB read for each, at most "
            f"{self.usage.memory_peak_bytes / 1e6:.0f} MB of memory"
        )


@dataclass(frozen=True)
class Row:
    """`read_mb`: by the worker, a token; `load_ms`: what that takes at `mb_s`; `alone_ms`: TPOT
    without limits. `peak_mb`: of the worker's memory in any repetition, its page cache counted.
    `taken_over`: chunks a token that others computed for it."""

    mb_s: int | None
    tpot_ms: float | None
    at_least_ms: float | None
    interval_ms: Interval | None
    read_mb: float
    load_ms: float | None
    alone_ms: float | None
    peak_mb: float
    limit_mb: float | None
    taken_over: float
    repetitions: int

    @property
    def ratio(self) -> float | None:
        """To the longer of loading and all the rest."""
        if self.tpot_ms is None or self.load_ms is None or self.alone_ms is None:
            return None
        return self.tpot_ms / max(self.load_ms, self.alone_ms)


def _measured(settings: Settings, case: Case, tell: Tell) -> tuple[Sample, list[str]]:
    size, spec = settings.size, case.spec(read_shape(str(settings.model)))
    with open_lab_cluster(spec, settings.model, tell) as cluster:
        cluster.measure(None, 1, size.limit_s, SETTLE)
        before = cluster.usage(WORKER)
        sample = cluster.decode(None, size.tokens, size.limit_s)
        usage, warnings = cluster.usage(WORKER), cluster.warnings()
    read = usage.storage_read_bytes - before.storage_read_bytes
    tokens = max(1, len(sample.decoding.gaps_ms))
    return Sample(sample, read / tokens, usage, spec.device(WORKER).memory_bytes), warnings


def _rows(taken: Mapping[Case, Sequence[Sample]]) -> list[Row]:
    free = taken.get(Case(None))
    alone = median_of([each.lab.decoding.tpot for each in free]).value if free else None
    rows = []
    for case, samples in taken.items():
        middle = median_of([sample.lab.decoding.tpot for sample in samples])
        read_mb = median(sample.read_bytes for sample in samples) / 1e6
        limit = samples[0].limit_bytes
        others = [sum(sample.lab.spent.taken_over_by_device.values()) for sample in samples]
        rows.append(
            Row(
                mb_s=case.mb_s,
                tpot_ms=middle.value,
                at_least_ms=middle.at_least,
                interval_ms=middle.interval,
                read_mb=read_mb,
                load_ms=None if case.mb_s is None else 1e3 * read_mb / case.mb_s,
                alone_ms=alone,
                peak_mb=max(sample.usage.memory_peak_bytes for sample in samples) / 1e6,
                limit_mb=None if limit is None else limit / 1e6,
                taken_over=sum(others) / sum(sample.lab.tokens for sample in samples),
                repetitions=middle.repetitions,
            )
        )
    return rows


def _table(rows: Sequence[Row]) -> str:
    columns = (
        Column[Row]("limit, MB/s", lambda row: str(row.mb_s or "none")),
        Column[Row]("TPOT, ms", lambda row: markdown.median(row.tpot_ms, row.at_least_ms)),
        Column[Row]("interval", lambda row: markdown.interval(row.interval_ms)),
        Column[Row]("read a token, MB", lambda row: markdown.number(row.read_mb)),
        Column[Row]("reading alone, ms", lambda row: markdown.number(row.load_ms)),
        Column[Row]("the rest alone, ms", lambda row: markdown.number(row.alone_ms)),
        Column[Row]("/ the longer", lambda row: markdown.ratio(row.ratio)),
        Column[Row]("memory at most, MB", lambda row: markdown.number(row.peak_mb)),
        Column[Row]("its limit, MB", lambda row: markdown.number(row.limit_mb)),
        Column[Row]("taken over a token", lambda row: markdown.number(row.taken_over)),
    )
    return markdown.table(columns, rows)


def _plot(rows: Sequence[Row]) -> Figure:
    """A token beside what it takes at least."""
    ours = [row for row in rows if row.mb_s is not None]
    with axes("limit of the disk, MB/s", "TPOT, ms") as (figure, plot):
        bars = (
            ("a token", [row.tpot_ms or 0.0 for row in ours]),
            ("reading alone", [row.load_ms or 0.0 for row in ours]),
            ("computing and network alone", [row.alone_ms or 0.0 for row in ours]),
        )
        for i, (label, heights) in enumerate(bars):
            places = [x + 0.27 * (i - 1) for x in range(len(ours))]
            plot.bar(places, heights, width=0.25, color=COLOURS[i], label=label)
        plot.set_xticks(range(len(ours)), [str(row.mb_s) for row in ours])
        plot.grid(axis="x", visible=False)
        plot.legend(frameon=False)
    return figure


LOADING: Final = Experiment(
    name="loading",
    about="A worker that reads half of its shard for every token (Linux, root).",
    row=Row,
    model="tinyllama-1.1b",
    full=Size(repetitions=3, tokens=12, limit_s=60),
    quick=Size(repetitions=1, tokens=6, limit_s=60),
    cases=lambda _: [Case(mb_s) for mb_s in (None, *RATES)],
    open=by_itself(_measured),
    rows=_rows,
    table=_table,
    plot=_plot,
    in_lab=True,
)

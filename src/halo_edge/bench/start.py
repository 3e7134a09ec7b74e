"""From the command to the first token of `halo run`, on four devices in the lab: cold, with empty
caches of shards and benchmarks, and warm, with what a longer generation left there.

Each device has a cache of its own, empty at each cold start, and the model's file is not in the
page cache (as far as nobody else has it mapped). Workers wait for a root, as they would. The
program has its bytecode, as an installed one does.
"""

from __future__ import annotations

import compileall
import os
import select
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

import halo_edge
from halo_edge.bench import markdown
from halo_edge.bench.experiment import Experiment, Settings, Size, Tell, by_itself
from halo_edge.bench.lab_cluster import lab_spec
from halo_edge.bench.markdown import Column
from halo_edge.bench.median import Interval, Reading, median_of
from halo_edge.bench.plot import COLOURS, axes
from halo_edge.errors import HaloError
from halo_edge.lab.lab import Lab
from halo_edge.lab.link import LinkSettings
from halo_edge.lab.shapes import read_shape
from halo_edge.lab.spec import LabSpec
from halo_edge.plan.model_shape import ModelShape
from halo_edge.plan.plan import split

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DEVICES: Final = 4
RATE_MBIT: Final = 100.0
# Of every device, the root's too. A packet between two of them passes both links.
LINK: Final = LinkSettings(delay_ms=0.25, rate_mbit=RATE_MBIT)
# What a cold start may take beside the time that bytes take.
FACTOR: Final = 1.2
MORE_S: Final = 2.0
WARM_S: Final = 2.0
PROMPT: Final = "The capital of France is"
END_S: Final = 60.0


@dataclass(frozen=True)
class Case:
    """`shares`: for `--split`; empty: what the scheduler says."""

    shares: tuple[int, ...]

    @property
    def name(self) -> str:
        return f"--split {','.join(map(str, self.shares))}" if self.shares else "scheduled"

    def must_move_bytes(self, shape: ModelShape) -> float:
        """To the workers, before the first token: with a plan of the scheduler the root begins
        alone."""
        if not self.shares:
            return 0.0
        plan = split(shape.partition.n_groups, self.shares)
        return shape.group_bytes * sum(len(plan.shares[d]) for d in plan.workers)

    def command(self, model: Path, tokens: int) -> list[str]:
        """Of the root."""
        split = ["--split", ",".join(map(str, self.shares))] if self.shares else []
        options = ["--model", str(model.resolve()), "--raw", "--max-tokens", str(tokens), *split]
        return ["halo", "run", *options, PROMPT]


@dataclass(frozen=True)
class Sample:
    """Seconds to the first token; packets to the workers until the end of the cold start, and bytes
    of their shards, which they must have before the first token."""

    cold_s: Reading
    warm_s: Reading
    packets: int
    must_move_bytes: float

    def __str__(self) -> str:
        return f"cold {self.cold_s.value:.1f} s, warm {self.warm_s.value:.1f} s"


@dataclass(frozen=True)
class Row:
    """`must_move_mb`: of the workers' shards. `moved_packets`: to the workers, in the first
    repetition. `target_s`: for the cold start. Those with `at_least` were cut short."""

    shares: str
    cold_s: float | None
    cold_at_least_s: float | None
    cold_interval_s: Interval | None
    warm_s: float | None
    warm_at_least_s: float | None
    warm_interval_s: Interval | None
    must_move_mb: float
    moved_packets: int
    target_s: float
    repetitions: int


def _spec() -> LabSpec:
    made = lab_spec("bench-start", DEVICES, link=LINK)
    devices = tuple(replace(each, up=LINK, down=LINK) for each in made.devices)
    return replace(made, devices=devices, own_caches=True)


def _measured(settings: Settings, case: Case, tell: Tell) -> tuple[Sample, list[str]]:
    # As pip does when it installs; a checkout may have none, and then half a second is compiling.
    compileall.compile_dir(Path(halo_edge.__file__).parent, quiet=2)
    model, limit_s = settings.model, settings.size.limit_s
    with tempfile.TemporaryDirectory(prefix="bench-start-") as directory, Lab(_spec(), tell) as lab:
        lab.start_workers()
        _drop_pages(model)
        command, log = case.command(model, 1), Path(directory) / "root.log"
        cold_s = _first_token_s(lab, command, log, limit_s)
        counters = lab.counters()
        packets = sum(counters[worker.name].down.offered for worker in lab.spec.workers)
        _first_token_s(lab, case.command(model, settings.size.tokens), log, limit_s)
        warm_s = _first_token_s(lab, command, log, limit_s)
        warnings = lab.warnings()
    must_move_bytes = case.must_move_bytes(read_shape(str(model)))
    return Sample(cold_s, warm_s, packets, must_move_bytes), warnings


def _drop_pages(path: Path) -> None:
    """Those of a file, from the page cache."""
    with path.open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _first_token_s(lab: Lab, command: Sequence[str], log: Path, limit_s: float) -> Reading:
    """From the start of the command to what it first prints, and on to its end. Of one token that
    is the token, or the end of its line. Raises `HaloError` where it ends without."""
    begun = time.monotonic()
    with log.open("wb") as errors:
        root = lab.spawn(
            lab.spec.root.name,
            command,
            env=lab.environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
        )
    assert root.stdout is not None  # asked for as a pipe
    with root.stdout as out:
        came = select.select([out], (), (), limit_s)[0]
        took_s = time.monotonic() - begun
        try:
            if not came:
                root.kill()
            elif not out.read(1):
                words = log.read_text(errors="replace").strip().splitlines() or ["without a word"]
                raise HaloError(f"the root in the lab has ended: {words[-1][:300]}")
            root.wait(END_S)
        except subprocess.TimeoutExpired:
            root.kill()
        finally:
            root.wait()
    return Reading(took_s, cut_short=not came)


def _rows(taken: Mapping[Case, Sequence[Sample]]) -> list[Row]:
    rows = []
    for case, samples in taken.items():
        cold = median_of([sample.cold_s for sample in samples])
        warm = median_of([sample.warm_s for sample in samples])
        must_move_mb = samples[0].must_move_bytes / 1e6
        rows.append(
            Row(
                shares=case.name,
                cold_s=cold.value,
                cold_at_least_s=cold.at_least,
                cold_interval_s=cold.interval,
                warm_s=warm.value,
                warm_at_least_s=warm.at_least,
                warm_interval_s=warm.interval,
                must_move_mb=must_move_mb,
                moved_packets=samples[0].packets,
                target_s=FACTOR * must_move_mb * 8 / RATE_MBIT + MORE_S,
                repetitions=cold.repetitions,
            )
        )
    return rows


def _table(rows: Sequence[Row]) -> str:
    columns = (
        Column[Row]("shares", lambda row: row.shares, left=True),
        Column[Row]("cold, s", lambda row: markdown.median(row.cold_s, row.cold_at_least_s)),
        Column[Row]("interval", lambda row: markdown.interval(row.cold_interval_s)),
        Column[Row]("must move first, MB", lambda row: markdown.number(row.must_move_mb)),
        Column[Row]("packets to workers", lambda row: f"{row.moved_packets:,}"),
        Column[Row](
            f"{FACTOR:g} x that / rate + {MORE_S:g} s", lambda row: markdown.number(row.target_s)
        ),
        Column[Row]("warm, s", lambda row: markdown.median(row.warm_s, row.warm_at_least_s)),
        Column[Row]("interval", lambda row: markdown.interval(row.warm_interval_s)),
    )
    return markdown.table(columns, rows)


def _plot(rows: Sequence[Row]) -> Figure:
    with axes("", "seconds to the first token") as (figure, plot):
        bars = (
            ("cold", [row.cold_s or row.cold_at_least_s or 0.0 for row in rows]),
            ("warm", [row.warm_s or row.warm_at_least_s or 0.0 for row in rows]),
        )
        for i, (label, heights) in enumerate(bars):
            places = [x + 0.32 * (i - 0.5) for x in range(len(rows))]
            plot.bar(places, heights, width=0.3, color=COLOURS[i], label=label)
        targets = [(x - 0.16, row.target_s) for x, row in enumerate(rows)]
        targets += [(x + 0.16, WARM_S) for x in range(len(rows))]
        plot.plot(*zip(*targets, strict=True), "k_", markersize=28, label="target")
        plot.set_xticks(range(len(rows)), [row.shares for row in rows])
        plot.grid(axis="x", visible=False)
        plot.legend(frameon=False, ncols=3, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    return figure


START: Final = Experiment(
    name="start",
    about="From the command to the first token, cold and warm, at 100 Mbit/s (Linux, root).",
    row=Row,
    model="tinyllama-1.1b",
    full=Size(repetitions=3, tokens=60, limit_s=90),
    quick=Size(repetitions=1, tokens=60, limit_s=90),
    cases=lambda _: [Case(()), Case((1,) * DEVICES)],
    open=by_itself(_measured),
    rows=_rows,
    table=_table,
    plot=_plot,
    in_lab=True,
)

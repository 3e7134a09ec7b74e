"""TPOT of 1 to 8 slow devices of equal CPU quota, and what of a token the root does alone.

Attention, KV cache and head are the root's alone. From their share of one device's token follows
how much faster n devices could be at best (Amdahl's law), if rounds cost nothing.

Two cores hold four devices of 0.4 of a core; eight have 0.2 each, and are compared with one of 0.2.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from halo_edge.bench import markdown
from halo_edge.bench.decoding import WARM_TOKENS
from halo_edge.bench.experiment import Experiment, Opened, Settings, Size, Tell
from halo_edge.bench.lab_cluster import LabCluster, LabSample, lab_spec, open_lab_cluster
from halo_edge.bench.markdown import Column
from halo_edge.bench.median import Interval, median_of
from halo_edge.bench.plot import COLOURS, Point, axes, draw_series, ticks
from halo_edge.bench.spent import Spent, spent
from halo_edge.cluster.messages import Transport
from halo_edge.cluster.trace_summary import TokenTime
from halo_edge.lab.link import LinkSettings

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Each way: an RTT of 1 ms, as on a good wireless network.
DELAY_MS: Final = 0.5


@dataclass(frozen=True)
class Case:
    """`speed`: each device's CPU quota, in cores."""

    devices: int
    speed: float

    @property
    def name(self) -> str:
        return f"{self.devices} of {self.speed:g} cores"


CASES: Final = (Case(1, 0.4), Case(2, 0.4), Case(4, 0.4), Case(1, 0.2), Case(8, 0.2))


@dataclass(frozen=True)
class Sample:
    lab: LabSample
    traced: tuple[TokenTime, ...]
    rounds: int

    def __str__(self) -> str:
        return str(self.lab.decoding)


@dataclass(frozen=True)
class Row:
    """`serial_ms`: of a token, what the root does alone. `factor`: how much faster than one device
    of that speed; `bound`: how much that could be at most."""

    devices: int
    speed: float
    transport: str
    policy: str
    tpot_ms: float | None
    at_least_ms: float | None
    interval_ms: Interval | None
    serial_ms: float | None
    factor: float | None
    bound: float | None
    spent: Spent | None
    repetitions: int


class _Open:
    """A lab whose devices record. The first few hundred tokens are."""

    def __init__(self, cluster: LabCluster) -> None:
        self.cluster = cluster
        self._seen = 0

    def measure(self, size: Size) -> Sample:
        sample = self.cluster.measure(None, size.tokens, size.limit_s)
        times = self.cluster.token_times()
        new, self._seen = times[self._seen :][WARM_TOKENS:], len(times)
        return Sample(sample, tuple(new), self.cluster.rounds)


@contextmanager
def _opened(
    settings: Settings, cases: Sequence[Case], tell: Tell
) -> Iterator[Opened[Case, Sample]]:
    with ExitStack() as stack:
        clusters = {
            case: _Open(
                stack.enter_context(
                    open_lab_cluster(
                        lab_spec(
                            f"bench-scaling-{case.devices}-{case.speed * 100:.0f}",
                            case.devices,
                            link=LinkSettings(delay_ms=DELAY_MS),
                            speed=case.speed,
                        ),
                        settings.model,
                        tell,
                        trace=True,
                    )
                )
            )
            for case in cases
        }
        yield Opened(
            lambda case: clusters[case].measure(settings.size),
            lambda: [line for each in clusters.values() for line in each.cluster.warnings()],
        )


def amdahl(serial_share: float, devices: int) -> float:
    """How much faster `devices` devices are at most than one."""
    return 1 / (serial_share + (1 - serial_share) / devices)


def _rows(taken: Mapping[Case, Sequence[Sample]]) -> list[Row]:
    medians = {
        case: median_of([sample.lab.decoding.tpot for sample in samples])
        for case, samples in taken.items()
    }
    where = {
        case: spent([time for sample in samples for time in sample.traced], samples[0].rounds)
        for case, samples in taken.items()
    }
    rows = []
    for case, middle in medians.items():
        one = Case(1, case.speed)
        alone, alone_spent, own = medians[one].value, where[one], where[case]
        bound = None
        if alone_spent is not None:
            root = alone_spent.root
            bound = amdahl(root.serial_ms / (root.serial_ms + root.own_ffn_ms), case.devices)
        rows.append(
            Row(
                devices=case.devices,
                speed=case.speed,
                transport=Transport.UDP.value,
                policy="strict",
                tpot_ms=middle.value,
                at_least_ms=middle.at_least,
                interval_ms=middle.interval,
                serial_ms=None if own is None else own.root.serial_ms,
                factor=alone / middle.value if alone and middle.value else None,
                bound=bound,
                spent=own,
                repetitions=middle.repetitions,
            )
        )
    return rows


def _table(rows: Sequence[Row]) -> str:
    columns = (
        Column[Row]("devices", lambda row: str(row.devices)),
        Column[Row]("cores each", lambda row: f"{row.speed:g}"),
        Column[Row]("TPOT, ms", lambda row: markdown.median(row.tpot_ms, row.at_least_ms)),
        Column[Row]("interval", lambda row: markdown.interval(row.interval_ms)),
        Column[Row]("the root alone, ms", lambda row: markdown.number(row.serial_ms)),
        Column[Row]("own FFN, ms", lambda row: _ms(row, "own_ffn_ms")),
        Column[Row]("waiting, ms", lambda row: _ms(row, "wait_ms")),
        Column[Row]("faster than one", lambda row: markdown.ratio(row.factor)),
        Column[Row]("at most", lambda row: markdown.ratio(row.bound)),
    )
    return markdown.table(columns, rows)


def _ms(row: Row, field: str) -> str:
    return markdown.number(None if row.spent is None else getattr(row.spent.root, field))


def _plot(rows: Sequence[Row]) -> Figure:
    with axes("devices", "times faster than one device") as (figure, plot):
        for i, speed in enumerate(sorted({row.speed for row in rows}, reverse=True)):
            ours = sorted((r for r in rows if r.speed == speed), key=lambda r: r.devices)
            points = [Point(r.devices, r.factor) for r in ours if r.factor is not None]
            draw_series(plot, i, f"{speed:g} cores each", points)
            bounds = [(r.devices, r.bound) for r in ours if r.bound is not None]
            if bounds:
                plot.plot(*zip(*bounds, strict=True), color=COLOURS[i], linestyle=":")
        ticks(plot, x=sorted({row.devices for row in rows}))
        plot.set_ylim(bottom=0)
        plot.plot([], [], color="black", linestyle=":", label="at most (Amdahl)")
        plot.legend(frameon=False)
    return figure


SCALING: Final = Experiment(
    name="scaling",
    about="TPOT of 1, 2, 4 and 8 slow devices (Linux, root).",
    row=Row,
    model="tinyllama-1.1b",
    full=Size(repetitions=5, tokens=16, limit_s=60),
    quick=Size(repetitions=2, tokens=6, limit_s=30),
    cases=lambda _: CASES,
    open=_opened,
    rows=_rows,
    table=_table,
    plot=_plot,
    in_lab=True,
)

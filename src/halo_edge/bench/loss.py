"""TPOT against packet loss: rounds over UDP and over TCP, with real packets, in the lab.

Four devices share one core, so that computing takes turns and every stall adds in full; the lab's
forwarder has the other cores. The RTT is 2 ms, TCP uses cubic, and each packet between root and
worker is lost by itself, each way.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from halo_edge.bench import markdown
from halo_edge.bench.cores import last_core
from halo_edge.bench.decoding import gap_percentile
from halo_edge.bench.experiment import Experiment, Opened, Settings, Size, Tell
from halo_edge.bench.lab_cluster import (
    LabCluster,
    LabSample,
    Links,
    lab_spec,
    open_lab_cluster,
)
from halo_edge.bench.markdown import Column
from halo_edge.bench.median import Interval, median_of
from halo_edge.bench.plot import Point, axes, draw_series, ticks
from halo_edge.cluster.messages import Transport
from halo_edge.lab.link import LinkSettings

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DEVICES: Final = 4
# Each way on every worker's link: an RTT of 2 ms.
DELAY_MS: Final = 1.0
# Longer than any measurement: a stall is to be measured, not to end the run.
STALL_TIMEOUT_S: Final = 600.0
STRICT: Final = "strict"
FULL: Final = (0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3)
QUICK: Final = (0.0, 0.05, 0.1)


@dataclass(frozen=True)
class Case:
    """`loss`: of each packet, each way."""

    transport: Transport
    loss: float

    @property
    def name(self) -> str:
        return f"{self.transport.value}, {markdown.percent(self.loss)} loss"


@dataclass(frozen=True)
class Row:
    """`ratio`: to the same transport without loss; None where either is not known."""

    transport: str
    policy: str
    loss: float
    realised_loss: float
    tpot_ms: float | None
    at_least_ms: float | None
    interval_ms: Interval | None
    p99_gap_ms: float
    ratio: float | None
    repetitions: int


@contextmanager
def one_core_clusters(
    name: str, settings: Settings, transports: Sequence[Transport], tell: Tell
) -> Iterator[dict[Transport, LabCluster]]:
    """Four devices on one core for each transport, RTT 2 ms, no loss yet. Raises `HaloError`."""
    with ExitStack() as stack:
        yield {
            transport: stack.enter_context(
                open_lab_cluster(
                    lab_spec(
                        f"bench-{name}-{transport.value}",
                        DEVICES,
                        link=LinkSettings(delay_ms=DELAY_MS),
                        cores=(last_core(),),
                    ),
                    settings.model,
                    transport,
                    tell,
                    stall_timeout_s=STALL_TIMEOUT_S,
                )
            )
            for transport in transports
        }


def warnings_of(clusters: Mapping[Transport, LabCluster]) -> list[str]:
    return [line for cluster in clusters.values() for line in cluster.warnings()]


def _cases(settings: Settings) -> list[Case]:
    losses = QUICK if settings.quick else FULL
    return [Case(transport, loss) for transport in Transport for loss in losses]


@contextmanager
def _opened(
    settings: Settings, cases: Sequence[Case], tell: Tell
) -> Iterator[Opened[Case, LabSample]]:
    transports = list(dict.fromkeys(case.transport for case in cases))
    with one_core_clusters("loss", settings, transports, tell) as clusters:
        size = settings.size

        def measure(case: Case) -> LabSample:
            links = Links(LinkSettings(loss=case.loss, delay_ms=DELAY_MS))
            return clusters[case.transport].measure(links, size.tokens, size.limit_s)

        yield Opened(measure, lambda: warnings_of(clusters))


def _rows(taken: Mapping[Case, Sequence[LabSample]]) -> list[Row]:
    medians = {
        case: median_of([sample.decoding.tpot for sample in samples])
        for case, samples in taken.items()
    }
    rows = []
    for case, samples in taken.items():
        middle, clean = medians[case], medians.get(Case(case.transport, 0.0))
        offered = sum(sample.offered for sample in samples)
        known = middle.value is not None and clean is not None and clean.value is not None
        rows.append(
            Row(
                transport=case.transport.value,
                policy=STRICT,
                loss=case.loss,
                realised_loss=sum(s.lost for s in samples) / offered if offered else 0.0,
                tpot_ms=middle.value,
                at_least_ms=middle.at_least,
                interval_ms=middle.interval,
                p99_gap_ms=gap_percentile([sample.decoding for sample in samples], 99),
                ratio=middle.value / clean.value if known else None,  # type: ignore[operator,union-attr]
                repetitions=middle.repetitions,
            )
        )
    return rows


def _table(rows: Sequence[Row]) -> str:
    columns = (
        Column[Row]("transport", lambda row: row.transport, left=True),
        Column[Row]("policy", lambda row: row.policy, left=True),
        Column[Row]("loss asked", lambda row: markdown.percent(row.loss)),
        Column[Row]("realised", lambda row: f"{row.realised_loss * 100:.2f} %"),
        Column[Row]("TPOT, ms", lambda row: markdown.median(row.tpot_ms, row.at_least_ms)),
        Column[Row]("interval", lambda row: markdown.interval(row.interval_ms)),
        Column[Row]("p99 token gap, ms", lambda row: markdown.number(row.p99_gap_ms)),
        Column[Row]("against its own at 0 %", lambda row: markdown.ratio(row.ratio)),
    )
    return markdown.table(columns, rows)


def _plot(rows: Sequence[Row]) -> Figure:
    losses = sorted({row.loss for row in rows})
    with axes("packets lost, each way, %", "TPOT, ms") as (figure, plot):
        for i, transport in enumerate(Transport):
            points = [
                Point(
                    row.loss * 100,
                    row.tpot_ms if row.tpot_ms is not None else row.at_least_ms or 0.0,
                    row.interval_ms,
                    at_least=row.tpot_ms is None,
                )
                for row in rows
                if row.transport == transport.value
            ]
            draw_series(plot, i, f"{transport.value.upper()}, {STRICT}", points)
        plot.set_yscale("log")
        plot.set_xscale("symlog", linthresh=1)
        ticks(plot, x=[loss * 100 for loss in losses], y=(100, 200, 500, 1000, 2000, 5000, 10000))
        plot.legend(frameon=False)
    return figure


LOSS: Final = Experiment(
    name="loss",
    row=Row,
    model="tinyllama-1.1b",
    full=Size(repetitions=5, tokens=16, limit_s=20),
    quick=Size(repetitions=2, tokens=8, limit_s=10),
    cases=_cases,
    open=_opened,
    rows=_rows,
    table=_table,
    plot=_plot,
)

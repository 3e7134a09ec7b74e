"""TPOT against packet loss, under several policies, over UDP and TCP, with real packets in the lab.

Four devices share one core; the RTT is 2 ms, TCP uses cubic, and each packet between root and
worker is lost by itself, each way.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from halo_edge.bench import markdown
from halo_edge.bench.cost import Cost, filled
from halo_edge.bench.decoding import gap_percentile
from halo_edge.bench.experiment import Experiment, Opened, Settings, Size, Tell
from halo_edge.bench.lab_cluster import LabSample, Links
from halo_edge.bench.markdown import Column
from halo_edge.bench.median import Interval, median_of
from halo_edge.bench.plot import Point, axes, draw_series, ticks
from halo_edge.bench.policies import DELAY_MS, Policy, policies, policy_clusters
from halo_edge.lab.link import LinkSettings

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FULL: Final = (0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3)
QUICK: Final = (0.0, 0.1)


@dataclass(frozen=True)
class Case:
    """`loss`: of each packet, each way."""

    policy: Policy
    loss: float

    @property
    def name(self) -> str:
        return f"{self.policy}, {markdown.percent(self.loss)} loss"


@dataclass(frozen=True)
class Row:
    """`ratio`: to the same policy without loss; None where either is not known. `cost`: None in
    results from before there was any."""

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
    cost: Cost | None = None


def _cases(settings: Settings) -> list[Case]:
    losses = QUICK if settings.quick else FULL
    return [Case(policy, loss) for policy in policies(settings) for loss in losses]


@contextmanager
def _opened(
    settings: Settings, cases: Sequence[Case], tell: Tell
) -> Iterator[Opened[Case, LabSample]]:
    used = [case.policy for case in cases]
    with policy_clusters("loss", settings, used, tell) as clusters:
        size = settings.size

        def measure(case: Case) -> LabSample:
            links = Links(LinkSettings(loss=case.loss, delay_ms=DELAY_MS))
            settle = case.policy.settle(clean=not case.loss)
            return clusters.decode(case.policy, links, size.tokens, size.limit_s, settle)

        yield Opened(measure, clusters.warnings)


def _rows(taken: Mapping[Case, Sequence[LabSample]]) -> list[Row]:
    medians = {
        case: median_of([sample.decoding.tpot for sample in samples])
        for case, samples in taken.items()
    }
    rows = []
    for case, samples in taken.items():
        middle, clean = medians[case], medians.get(Case(case.policy, 0.0))
        offered = sum(sample.offered for sample in samples)
        known = middle.value is not None and clean is not None and clean.value is not None
        rows.append(
            Row(
                transport=case.policy.transport.value,
                policy=case.policy.name,
                loss=case.loss,
                realised_loss=sum(s.lost for s in samples) / offered if offered else 0.0,
                tpot_ms=middle.value,
                at_least_ms=middle.at_least,
                interval_ms=middle.interval,
                p99_gap_ms=gap_percentile([sample.decoding for sample in samples], 99),
                ratio=middle.value / clean.value if known else None,  # type: ignore[operator,union-attr]
                repetitions=middle.repetitions,
                cost=Cost.of([s.spent for s in samples], sum(s.tokens for s in samples)),
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
        Column[Row]("filled a token", lambda row: filled(row.cost)),
    )
    return markdown.table(columns, rows)


def _plot(rows: Sequence[Row]) -> Figure:
    losses = sorted({row.loss for row in rows})
    with axes("packets lost, each way, %", "TPOT, ms") as (figure, plot):
        series = dict.fromkeys((row.transport, row.policy) for row in rows)
        for i, (transport, policy) in enumerate(series):
            points = [
                Point(
                    row.loss * 100,
                    row.tpot_ms if row.tpot_ms is not None else row.at_least_ms or 0.0,
                    row.interval_ms,
                    at_least=row.tpot_ms is None,
                )
                for row in rows
                if (row.transport, row.policy) == (transport, policy)
            ]
            draw_series(plot, i, f"{transport.upper()}, {policy}", points)
        plot.set_yscale("log")
        plot.set_xscale("symlog", linthresh=1)
        ticks(plot, x=[loss * 100 for loss in losses], y=(100, 200, 500, 1000, 2000, 5000, 10000))
        plot.legend(frameon=False)
    return figure


LOSS: Final = Experiment(
    name="loss",
    about="TPOT against packet loss, UDP and TCP, with real packets (Linux, root).",
    row=Row,
    model="tinyllama-1.1b",
    full=Size(repetitions=5, tokens=16, limit_s=20),
    quick=Size(repetitions=2, tokens=8, limit_s=10),
    cases=_cases,
    open=_opened,
    rows=_rows,
    table=_table,
    plot=_plot,
    in_lab=True,
    uses_profile=True,
)

"""Bursts of loss: 20 ms of silence every 400 ms, on average, on every worker's link; in the lab.

A bursting link loses nothing in between. Each direction of each link has bursts of its own. As in
`loss`, four devices share one core, the RTT is 2 ms, and there are several policies.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from halo_edge.bench import markdown
from halo_edge.bench.cost import Cost, filled
from halo_edge.bench.decoding import gap_percentile
from halo_edge.bench.experiment import Experiment, Opened, Settings, Size, Tell
from halo_edge.bench.lab_cluster import LabSample, Links
from halo_edge.bench.markdown import Column
from halo_edge.bench.median import Interval, median_of
from halo_edge.bench.plot import COLOURS, axes
from halo_edge.bench.policies import DELAY_MS, Policy, policies, policy_clusters
from halo_edge.lab.link import Burst, LinkSettings

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BURST: Final = Burst(good_ms=380, bad_ms=20)
QUANTILES: Final = tuple(range(0, 101, 2))


@dataclass(frozen=True)
class Case:
    policy: Policy
    bursts: bool

    @property
    def name(self) -> str:
        return f"{self.policy}, {'bursts' if self.bursts else 'clean'}"


@dataclass(frozen=True)
class Row:
    """`gap_quantiles_ms`: token gaps at 0, 2, ... 100 % of all repetitions' gaps. `ratio`: to the
    same policy without bursts; `p99_ratio`: of the 99th percentile to its median gap. Those with a
    default are not in older results."""

    transport: str
    policy: str
    bursts: bool
    realised_loss: float
    tpot_ms: float | None
    at_least_ms: float | None
    interval_ms: Interval | None
    median_gap_ms: float
    p99_gap_ms: float
    max_gap_ms: float
    gap_quantiles_ms: list[float]
    ratio: float | None
    repetitions: int
    p99_ratio: float | None = None
    cost: Cost | None = None


@contextmanager
def _opened(
    settings: Settings, cases: Sequence[Case], tell: Tell
) -> Iterator[Opened[Case, LabSample]]:
    used = [case.policy for case in cases]
    with policy_clusters("burst", settings, used, tell) as clusters:
        size = settings.size

        def measure(case: Case) -> LabSample:
            burst = BURST if case.bursts else None
            links = Links(LinkSettings(burst=burst, delay_ms=DELAY_MS))
            settle = case.policy.settle(clean=not case.bursts)
            return clusters.decode(case.policy, links, size.tokens, size.limit_s, settle)

        yield Opened(measure, clusters.warnings)


def _rows(taken: Mapping[Case, Sequence[LabSample]]) -> list[Row]:
    medians = {
        case: median_of([sample.decoding.tpot for sample in samples])
        for case, samples in taken.items()
    }
    rows = []
    for case, samples in taken.items():
        clean = Case(case.policy, False)
        middle, clean_ms = medians[case], medians[clean].value
        decodings = [sample.decoding for sample in samples]
        clean_gap_ms = gap_percentile([sample.decoding for sample in taken[clean]], 50)
        p99_ms = gap_percentile(decodings, 99)
        offered = sum(sample.offered for sample in samples)
        rows.append(
            Row(
                transport=case.policy.transport.value,
                policy=case.policy.name,
                bursts=case.bursts,
                realised_loss=sum(s.lost for s in samples) / offered if offered else 0.0,
                tpot_ms=middle.value,
                at_least_ms=middle.at_least,
                interval_ms=middle.interval,
                median_gap_ms=gap_percentile(decodings, 50),
                p99_gap_ms=p99_ms,
                max_gap_ms=gap_percentile(decodings, 100),
                gap_quantiles_ms=[round(gap_percentile(decodings, q), 2) for q in QUANTILES],
                ratio=middle.value / clean_ms if middle.value and clean_ms else None,
                repetitions=middle.repetitions,
                p99_ratio=p99_ms / clean_gap_ms if clean_gap_ms else None,
                cost=Cost.of([s.spent for s in samples], sum(s.tokens for s in samples)),
            )
        )
    return rows


def _table(rows: Sequence[Row]) -> str:
    columns = (
        Column[Row]("transport", lambda row: row.transport, left=True),
        Column[Row]("policy", lambda row: row.policy, left=True),
        Column[Row]("links", lambda row: "bursts" if row.bursts else "clean", left=True),
        Column[Row]("lost", lambda row: f"{row.realised_loss * 100:.2f} %"),
        Column[Row]("TPOT, ms", lambda row: markdown.median(row.tpot_ms, row.at_least_ms)),
        Column[Row]("interval", lambda row: markdown.interval(row.interval_ms)),
        Column[Row]("median gap, ms", lambda row: markdown.number(row.median_gap_ms)),
        Column[Row]("p99", lambda row: markdown.number(row.p99_gap_ms)),
        Column[Row]("longest", lambda row: markdown.number(row.max_gap_ms)),
        Column[Row]("TPOT against clean", lambda row: markdown.ratio(row.ratio)),
        Column[Row]("p99 against clean median", lambda row: markdown.ratio(row.p99_ratio)),
        Column[Row]("filled a token", lambda row: filled(row.cost)),
    )
    return markdown.table(columns, rows)


def _plot(rows: Sequence[Row]) -> Figure:
    with axes("token gap, ms", "share of gaps no longer than that, %") as (figure, plot):
        series = list(dict.fromkeys((row.transport, row.policy) for row in rows))
        for row in rows:
            i = series.index((row.transport, row.policy))
            plot.plot(
                np.maximum(row.gap_quantiles_ms, 1e-3),
                QUANTILES,
                color=COLOURS[i % len(COLOURS)],
                linestyle="-" if row.bursts else ":",
                label=f"{row.transport.upper()}, {row.policy}" if row.bursts else None,
            )
        plot.set_title("dotted: without bursts")
        plot.set_xscale("log")
        plot.legend(frameon=False)
    return figure


BURSTS: Final = Experiment(
    name="burst",
    about="TPOT and token gaps under bursts of loss (Linux, root).",
    row=Row,
    model="tinyllama-1.1b",
    full=Size(repetitions=5, tokens=40, limit_s=60),
    quick=Size(repetitions=2, tokens=16, limit_s=15),
    cases=lambda settings: [
        Case(policy, bursts) for policy in policies(settings) for bursts in (False, True)
    ],
    open=_opened,
    rows=_rows,
    table=_table,
    plot=_plot,
    in_lab=True,
    uses_profile=True,
)

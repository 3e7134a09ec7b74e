"""Bursts of loss: 20 ms of silence every 400 ms, on average, on every worker's link; in the lab.

A bursting link loses nothing in between. As in `loss`, four devices share one core, and the RTT is
2 ms. Each direction of each link has bursts of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from halo_edge.bench import markdown
from halo_edge.bench.decoding import gap_percentile
from halo_edge.bench.experiment import Experiment, Opened, Settings, Size, Tell
from halo_edge.bench.lab_cluster import LabSample, Links
from halo_edge.bench.loss import DELAY_MS, STRICT, one_core_clusters, warnings_of
from halo_edge.bench.markdown import Column
from halo_edge.bench.median import Interval, median_of
from halo_edge.bench.plot import COLOURS, axes
from halo_edge.cluster.messages import Transport
from halo_edge.lab.link import Burst, LinkSettings

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BURST: Final = Burst(good_ms=380, bad_ms=20)
QUANTILES: Final = tuple(range(0, 101, 2))


@dataclass(frozen=True)
class Case:
    transport: Transport
    bursts: bool

    @property
    def name(self) -> str:
        return f"{self.transport.value}, {'bursts' if self.bursts else 'clean'}"


@dataclass(frozen=True)
class Row:
    """`gap_quantiles_ms`: token gaps at 0, 2, ... 100 % of all repetitions' gaps. `ratio`: to the
    same transport without bursts."""

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


@contextmanager
def _opened(
    settings: Settings, cases: Sequence[Case], tell: Tell
) -> Iterator[Opened[Case, LabSample]]:
    with one_core_clusters("burst", settings, list(Transport), tell) as clusters:
        size = settings.size

        def measure(case: Case) -> LabSample:
            burst = BURST if case.bursts else None
            links = Links(LinkSettings(burst=burst, delay_ms=DELAY_MS))
            return clusters[case.transport].measure(links, size.tokens, size.limit_s)

        yield Opened(measure, lambda: warnings_of(clusters))


def _rows(taken: Mapping[Case, Sequence[LabSample]]) -> list[Row]:
    medians = {
        case: median_of([sample.decoding.tpot for sample in samples])
        for case, samples in taken.items()
    }
    rows = []
    for case, samples in taken.items():
        middle, clean = medians[case], medians[Case(case.transport, False)].value
        decodings = [sample.decoding for sample in samples]
        offered = sum(sample.offered for sample in samples)
        rows.append(
            Row(
                transport=case.transport.value,
                policy=STRICT,
                bursts=case.bursts,
                realised_loss=sum(s.lost for s in samples) / offered if offered else 0.0,
                tpot_ms=middle.value,
                at_least_ms=middle.at_least,
                interval_ms=middle.interval,
                median_gap_ms=gap_percentile(decodings, 50),
                p99_gap_ms=gap_percentile(decodings, 99),
                max_gap_ms=gap_percentile(decodings, 100),
                gap_quantiles_ms=[round(gap_percentile(decodings, q), 2) for q in QUANTILES],
                ratio=middle.value / clean if middle.value and clean else None,
                repetitions=middle.repetitions,
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
        Column[Row]("against clean", lambda row: markdown.ratio(row.ratio)),
    )
    return markdown.table(columns, rows)


def _plot(rows: Sequence[Row]) -> Figure:
    with axes("token gap, ms", "share of gaps no longer than that, %") as (figure, plot):
        for i, transport in enumerate(Transport):
            for row in rows:
                if row.transport == transport.value:
                    plot.plot(
                        np.maximum(row.gap_quantiles_ms, 1e-3),
                        QUANTILES,
                        color=COLOURS[i],
                        linestyle="-" if row.bursts else ":",
                        label=f"{transport.value.upper()}, {'bursts' if row.bursts else 'clean'}",
                    )
        plot.set_xscale("log")
        plot.legend(frameon=False)
    return figure


BURSTS: Final = Experiment(
    name="burst",
    row=Row,
    model="tinyllama-1.1b",
    full=Size(repetitions=5, tokens=40, limit_s=60),
    quick=Size(repetitions=2, tokens=16, limit_s=15),
    cases=lambda _: [Case(t, bursts) for t in Transport for bursts in (False, True)],
    open=_opened,
    rows=_rows,
    table=_table,
    plot=_plot,
)

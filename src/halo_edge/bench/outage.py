"""A worker's link is cut for 2 s while tokens are generated: the longest gap. In the lab.

As in `loss`, four devices share one core, and the RTT is 2 ms.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, Final

from halo_edge.bench import markdown
from halo_edge.bench.experiment import Experiment, Opened, Settings, Size, Tell
from halo_edge.bench.lab_cluster import LabSample, Links
from halo_edge.bench.loss import DELAY_MS, STRICT, one_core_clusters, warnings_of
from halo_edge.bench.markdown import Column
from halo_edge.bench.median import Interval, Reading, median_of
from halo_edge.bench.plot import COLOURS, MARKERS, axes
from halo_edge.cluster.messages import Transport
from halo_edge.lab.link import LinkSettings
from halo_edge.lab.spec import Action, Event

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WORKER: Final = "n1"
CUT_AT_S: Final = 1.5
CUT_S: Final = 2.0
EVENTS: Final = (
    Event(CUT_AT_S, Action.CUT, WORKER),
    Event(CUT_AT_S + CUT_S, Action.JOIN, WORKER),
)


@dataclass(frozen=True)
class Case:
    transport: Transport

    @property
    def name(self) -> str:
        return f"{self.transport.value}, cut for {CUT_S:g} s"


@dataclass(frozen=True)
class Row:
    """`max_gap_ms`: the median of the repetitions' longest gaps. `token_s`, `gaps_ms`: of the first
    repetition: when each token came, seconds after the cut, and how long it took."""

    transport: str
    policy: str
    cut_s: float
    median_gap_ms: float
    max_gap_ms: float | None
    at_least_ms: float | None
    interval_ms: Interval | None
    token_s: list[float]
    gaps_ms: list[float]
    repetitions: int


@contextmanager
def _opened(
    settings: Settings, cases: Sequence[Case], tell: Tell
) -> Iterator[Opened[Case, LabSample]]:
    with one_core_clusters("outage", settings, list(Transport), tell) as clusters:
        links, size = Links(LinkSettings(delay_ms=DELAY_MS), EVENTS), settings.size
        yield Opened(
            lambda case: clusters[case.transport].measure(links, size.tokens, size.limit_s),
            lambda: warnings_of(clusters),
        )


def _rows(taken: Mapping[Case, Sequence[LabSample]]) -> list[Row]:
    rows = []
    for case, samples in taken.items():
        longest = median_of([_longest(sample) for sample in samples])
        gaps = [gap for sample in samples for gap in sample.decoding.gaps_ms]
        first = samples[0]
        cut_s = first.events_s[0] if first.events_s else 0.0
        rows.append(
            Row(
                transport=case.transport.value,
                policy=STRICT,
                cut_s=CUT_S,
                median_gap_ms=sorted(gaps)[len(gaps) // 2] if gaps else 0.0,
                max_gap_ms=longest.value,
                at_least_ms=longest.at_least,
                interval_ms=longest.interval,
                token_s=[round(t / 1e3 - cut_s, 4) for t in accumulate(first.decoding.gaps_ms)],
                gaps_ms=[round(gap, 2) for gap in first.decoding.gaps_ms],
                repetitions=longest.repetitions,
            )
        )
    return rows


def _longest(sample: LabSample) -> Reading:
    decoding = sample.decoding
    if decoding.waited_ms is not None:
        return Reading(max((*decoding.gaps_ms, decoding.waited_ms)), cut_short=True)
    return Reading(max(decoding.gaps_ms))


def _table(rows: Sequence[Row]) -> str:
    columns = (
        Column[Row]("transport", lambda row: row.transport, left=True),
        Column[Row]("policy", lambda row: row.policy, left=True),
        Column[Row]("link cut for", lambda row: f"{row.cut_s:g} s"),
        Column[Row]("median gap, ms", lambda row: markdown.number(row.median_gap_ms)),
        Column[Row]("longest, ms", lambda row: markdown.median(row.max_gap_ms, row.at_least_ms)),
        Column[Row]("interval", lambda row: markdown.interval(row.interval_ms)),
    )
    return markdown.table(columns, rows)


def _plot(rows: Sequence[Row]) -> Figure:
    with axes("seconds after the cut", "token gap, ms") as (figure, plot):
        plot.axvspan(0, CUT_S, color="#eeeeee", label="link cut")
        for i, row in enumerate(rows):
            plot.plot(
                row.token_s,
                row.gaps_ms,
                color=COLOURS[i],
                marker=MARKERS[i],
                linewidth=0.8,
                markersize=3,
                label=f"{row.transport.upper()}, {row.policy}",
            )
        plot.set_yscale("log")
        plot.legend(frameon=False)
    return figure


OUTAGE: Final = Experiment(
    name="outage",
    row=Row,
    model="tinyllama-1.1b",
    full=Size(repetitions=5, tokens=48, limit_s=60),
    quick=Size(repetitions=2, tokens=32, limit_s=30),
    cases=lambda _: [Case(transport) for transport in Transport],
    open=_opened,
    rows=_rows,
    table=_table,
    plot=_plot,
)

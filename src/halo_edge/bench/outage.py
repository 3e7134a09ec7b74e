"""A worker goes away while tokens are generated: the longest gap between two. In the lab.

Its link is cut, for 2 s or for good, or its process is stopped for 1 s and goes on. As in `loss`,
four devices share one core, the RTT is 2 ms, and there are several policies.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from itertools import accumulate
from typing import TYPE_CHECKING, Final

from halo_edge.bench import markdown
from halo_edge.bench.cost import Cost
from halo_edge.bench.experiment import Experiment, Opened, Settings, Size, Tell
from halo_edge.bench.lab_cluster import LabSample, Links
from halo_edge.bench.markdown import Column
from halo_edge.bench.median import Interval, Reading, median_of
from halo_edge.bench.plot import COLOURS, MARKERS, axes
from halo_edge.bench.policies import DELAY_MS, Policy, policies, policy_clusters
from halo_edge.lab.link import LinkSettings
from halo_edge.lab.spec import Action, Event

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WORKER: Final = "n1"
AWAY_AT_S: Final = 1.5
CUT_S: Final = 2.0
STOP_S: Final = 1.0
# How long a cut for good is watched: a control plane gives a worker up after some 15 s.
FOR_GOOD_LIMIT_S: Final = 8.0


class Outage(Enum):
    """What happens to the worker."""

    CUT = "cut for 2 s"
    FOR_GOOD = "cut for good"
    STOP = "stopped for 1 s"

    @property
    def events(self) -> tuple[Event, ...]:
        return {
            Outage.CUT: (
                Event(AWAY_AT_S, Action.CUT, WORKER),
                Event(AWAY_AT_S + CUT_S, Action.JOIN, WORKER),
            ),
            Outage.FOR_GOOD: (Event(AWAY_AT_S, Action.CUT, WORKER),),
            Outage.STOP: (
                Event(AWAY_AT_S, Action.STOP, WORKER),
                Event(AWAY_AT_S + STOP_S, Action.CONTINUE, WORKER),
            ),
        }[self]


@dataclass(frozen=True)
class Case:
    policy: Policy
    outage: Outage

    @property
    def name(self) -> str:
        return f"{self.policy}, {self.outage.value}"


@dataclass(frozen=True)
class Row:
    """`max_gap_ms`: the median of the repetitions' longest gaps. `token_s`, `gaps_ms`: of the first
    repetition: when each token came, seconds after the outage began, and how long it took.
    `cut_s`: of a cut that ends. Those with a default are not in older results."""

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
    outage: Outage = Outage.CUT
    cost: Cost | None = None


def _cases(settings: Settings) -> list[Case]:
    outages = (Outage.CUT,) if settings.quick else Outage
    return [Case(policy, outage) for outage in outages for policy in policies(settings)]


@contextmanager
def _opened(
    settings: Settings, cases: Sequence[Case], tell: Tell
) -> Iterator[Opened[Case, LabSample]]:
    used = [case.policy for case in cases]
    with policy_clusters("outage", settings, used, tell) as clusters:
        size = settings.size

        def measure(case: Case) -> LabSample:
            links = Links(LinkSettings(delay_ms=DELAY_MS), case.outage.events)
            limit_s = size.limit_s
            if case.outage is Outage.FOR_GOOD:
                limit_s = min(limit_s, FOR_GOOD_LIMIT_S)
            return clusters.decode(case.policy, links, size.tokens, limit_s)

        yield Opened(measure, clusters.warnings)


def _rows(taken: Mapping[Case, Sequence[LabSample]]) -> list[Row]:
    rows = []
    for case, samples in taken.items():
        longest = median_of([_longest(sample) for sample in samples])
        gaps = [gap for sample in samples for gap in sample.decoding.gaps_ms]
        first = samples[0]
        away_s = first.events_s[0] if first.events_s else 0.0
        rows.append(
            Row(
                transport=case.policy.transport.value,
                policy=case.policy.name,
                cut_s=CUT_S if case.outage is Outage.CUT else 0.0,
                median_gap_ms=sorted(gaps)[len(gaps) // 2] if gaps else 0.0,
                max_gap_ms=longest.value,
                at_least_ms=longest.at_least,
                interval_ms=longest.interval,
                token_s=[round(t / 1e3 - away_s, 4) for t in accumulate(first.decoding.gaps_ms)],
                gaps_ms=[round(gap, 2) for gap in first.decoding.gaps_ms],
                repetitions=longest.repetitions,
                outage=case.outage,
                cost=Cost.of([s.spent for s in samples], sum(s.tokens for s in samples)),
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
        Column[Row]("a worker is", lambda row: row.outage.value, left=True),
        Column[Row]("median gap, ms", lambda row: markdown.number(row.median_gap_ms)),
        Column[Row]("longest, ms", lambda row: markdown.median(row.max_gap_ms, row.at_least_ms)),
        Column[Row]("interval", lambda row: markdown.interval(row.interval_ms)),
        Column[Row]("taken over, chunks a token", _taken_over),
    )
    return markdown.table(columns, rows)


def _taken_over(row: Row) -> str:
    return markdown.NOTHING if row.cost is None else markdown.number(row.cost.taken_over)


def _plot(rows: Sequence[Row]) -> Figure:
    """Of the cut that ends."""
    with axes("seconds after the cut", "token gap, ms") as (figure, plot):
        plot.axvspan(0, CUT_S, color="#eeeeee", label="link cut")
        for i, row in enumerate(row for row in rows if row.outage is Outage.CUT):
            plot.plot(
                row.token_s,
                row.gaps_ms,
                color=COLOURS[i % len(COLOURS)],
                marker=MARKERS[i % len(MARKERS)],
                linewidth=0.8,
                markersize=3,
                label=f"{row.transport.upper()}, {row.policy}",
            )
        plot.set_yscale("log")
        plot.legend(frameon=False)
    return figure


OUTAGE: Final = Experiment(
    name="outage",
    about="Token gaps around the absence of a worker (Linux, root).",
    row=Row,
    model="tinyllama-1.1b",
    full=Size(repetitions=5, tokens=48, limit_s=60),
    quick=Size(repetitions=1, tokens=32, limit_s=30),
    cases=_cases,
    open=_opened,
    rows=_rows,
    table=_table,
    plot=_plot,
    in_lab=True,
    uses_profile=True,
)

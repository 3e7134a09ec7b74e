"""A device slows down, or dies again and again, while tokens are generated: the longest gap, and
how soon the others have taken over for good. In the lab, with the scheduler's plans.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from enum import Enum
from itertools import accumulate
from statistics import median
from typing import TYPE_CHECKING, Final

from halo_edge.bench import markdown
from halo_edge.bench.experiment import Experiment, Opened, Settings, Size, Tell
from halo_edge.bench.lab_cluster import LabSample, Links, lab_spec, open_lab_cluster
from halo_edge.bench.markdown import Column
from halo_edge.bench.median import Interval, Reading, median_of
from halo_edge.bench.plot import COLOURS, axes
from halo_edge.bench.policies import STALL_TIMEOUT_S
from halo_edge.cluster.messages import Transport
from halo_edge.lab.link import LinkSettings
from halo_edge.lab.spec import Action, Event

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DELAY_MS: Final = 0.5
# CPU quotas, in cores: the root's, and the workers', of which each is worth having.
SPEEDS: Final = (0.3, 0.5, 0.4, 0.4)
# The plan is carried out, and made again once rounds have said how fast the devices are.
SLOW_AT_S: Final = 22.0
BEFORE_S: Final = 8.0
KILLS: Final = 20
KILL_AT_S: Final = 20.0
KILL_EVERY_S: Final = 3.0
RESTART_AFTER_S: Final = 0.3
LAST: Final = 0.25
"""The share of the tokens, at the end, that says what the new optimum is."""
NEAR: Final = 1.2
WINDOW: Final = 5  # tokens, of which the median counts


class Trouble(Enum):
    """What happens."""

    SLOW = "a worker slows to a quarter"
    KILLED = f"a worker is killed and started again, {KILLS} times"

    @property
    def events(self) -> tuple[Event, ...]:
        if self is Trouble.SLOW:
            return (Event(SLOW_AT_S, Action.SPEED, "n1", speed=SPEEDS[1] / 4),)
        chance, events = random.Random(1), []
        for kill in range(KILLS):
            at_s, worker = KILL_AT_S + kill * KILL_EVERY_S, f"n{chance.randint(1, 3)}"
            events.append(Event(at_s, Action.KILL, worker))
            events.append(Event(at_s + RESTART_AFTER_S, Action.RESTART, worker))
        return tuple(events)


@dataclass(frozen=True)
class Case:
    trouble: Trouble

    @property
    def name(self) -> str:
        return self.trouble.value


@dataclass(frozen=True)
class Row:
    """`before_ms`, `after_ms`: medians of the gaps before it begins, and of the last. `longest_ms`:
    the median of the repetitions' longest gaps from then on. `settled_s`: until gaps are within 20
    % of the last for good. `token_s`, `gaps_ms`: of the first repetition, as in `outage`."""

    trouble: Trouble
    before_ms: float
    after_ms: float
    longest_ms: float | None
    at_least_ms: float | None
    interval_ms: Interval | None
    settled_s: float
    token_s: list[float]
    gaps_ms: list[float]
    repetitions: int


def _cases(settings: Settings) -> list[Case]:
    return [Case(trouble) for trouble in Trouble]


@contextmanager
def _opened(
    settings: Settings, cases: Sequence[Case], tell: Tell
) -> Iterator[Opened[Case, LabSample]]:
    warnings: list[str] = []

    def measure(case: Case) -> LabSample:
        link = LinkSettings(delay_ms=DELAY_MS)
        spec = lab_spec("bench-replanning", len(SPEEDS), link=link)
        devices = zip(spec.devices, SPEEDS, strict=True)
        spec = replace(spec, devices=tuple(replace(device, speed=s) for device, s in devices))
        with open_lab_cluster(
            spec,
            settings.model,
            Transport.UDP,
            tell,
            stall_timeout_s=STALL_TIMEOUT_S,
            scheduled=True,
        ) as cluster:
            size, links = settings.size, Links(link, case.trouble.events)
            sample = cluster.measure(links, size.tokens, size.limit_s)
            warnings.extend(f"{case.name}: {line}" for line in cluster.warnings())
            return sample

    yield Opened(measure, lambda: warnings)


@dataclass(frozen=True)
class _Course:
    """`at_s`: when each token came, after the first event."""

    at_s: tuple[float, ...]
    gaps_ms: tuple[float, ...]

    @classmethod
    def of(cls, sample: LabSample) -> _Course:
        gaps = sample.decoding.gaps_ms
        begun_s = sample.events_s[0] if sample.events_s else 0.0
        at_s = tuple(t / 1e3 - begun_s for t in accumulate(gaps))
        return cls(at_s, gaps)

    @property
    def before_ms(self) -> float:
        before = [gap for t, gap in zip(self.at_s, self.gaps_ms, strict=True) if -BEFORE_S < t < 0]
        return median(before) if before else 0.0

    @property
    def after_ms(self) -> float:
        return median(self.gaps_ms[-max(WINDOW, int(LAST * len(self.gaps_ms))) :])

    @property
    def longest_ms(self) -> float:
        return max(gap for t, gap in zip(self.at_s, self.gaps_ms, strict=True) if t >= 0)

    @property
    def settled_s(self) -> float:
        limit_ms, settled_s = NEAR * self.after_ms, 0.0
        for end in range(WINDOW, len(self.gaps_ms) + 1):
            if median(self.gaps_ms[end - WINDOW : end]) > limit_ms:
                settled_s = self.at_s[end - 1]
        return max(0.0, settled_s)


def _rows(taken: Mapping[Case, Sequence[LabSample]]) -> list[Row]:
    rows = []
    for case, samples in taken.items():
        courses = [_Course.of(sample) for sample in samples]
        longest = median_of([Reading(course.longest_ms) for course in courses])
        first = courses[0]
        rows.append(
            Row(
                trouble=case.trouble,
                before_ms=median(course.before_ms for course in courses),
                after_ms=median(course.after_ms for course in courses),
                longest_ms=longest.value,
                at_least_ms=longest.at_least,
                interval_ms=longest.interval,
                settled_s=median(course.settled_s for course in courses),
                token_s=[round(t, 3) for t in first.at_s],
                gaps_ms=[round(gap, 2) for gap in first.gaps_ms],
                repetitions=longest.repetitions,
            )
        )
    return rows


def _table(rows: Sequence[Row]) -> str:
    columns = (
        Column[Row]("", lambda row: row.trouble.value, left=True),
        Column[Row]("median gap before, ms", lambda row: markdown.number(row.before_ms)),
        Column[Row]("at the end, ms", lambda row: markdown.number(row.after_ms)),
        Column[Row]("longest, ms", lambda row: markdown.median(row.longest_ms, row.at_least_ms)),
        Column[Row]("interval", lambda row: markdown.interval(row.interval_ms)),
        Column[Row]("within 20 % of the end after, s", lambda row: f"{row.settled_s:.1f}"),
    )
    return markdown.table(columns, rows)


def _plot(rows: Sequence[Row]) -> Figure:
    with axes("seconds after it begins", "token gap, ms") as (figure, plot):
        for i, row in enumerate(rows):
            plot.plot(
                row.token_s,
                row.gaps_ms,
                color=COLOURS[i],
                linewidth=0.8,
                marker=".",
                markersize=3,
                label=row.trouble.value,
            )
        plot.set_yscale("log")
        plot.legend(frameon=False)
    return figure


REPLANNING: Final = Experiment(
    name="replanning",
    row=Row,
    model="tinyllama-1.1b",
    full=Size(repetitions=3, tokens=430, limit_s=150),
    quick=Size(repetitions=1, tokens=300, limit_s=90),
    cases=_cases,
    open=_opened,
    rows=_rows,
    table=_table,
    plot=_plot,
    in_lab=True,
)

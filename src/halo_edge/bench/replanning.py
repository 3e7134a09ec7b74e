"""A device slows down, or dies again and again, while tokens are generated: how long tokens take
before, at once, while plans change, and afterwards; and whether the text stays what it is. In the
lab, with the scheduler's plans and a budget of 0.

Under CPU quotas long gaps come all the time, so gaps are told apart by what happened around them.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from itertools import accumulate
from statistics import median
from typing import TYPE_CHECKING, Final

import numpy as np

from halo_edge.bench import markdown
from halo_edge.bench.experiment import Experiment, Settings, Size, Tell, by_itself
from halo_edge.bench.lab_cluster import LabCluster, LabSample, Links, lab_spec, open_lab_cluster
from halo_edge.bench.markdown import Column
from halo_edge.bench.plot import COLOURS, MARKERS, axes, ticks
from halo_edge.bench.texts import Texts, same_text
from halo_edge.lab.link import LinkSettings
from halo_edge.lab.spec import Action, Event

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LINK: Final = LinkSettings(delay_ms=0.5)
# CPU quotas, in cores: the root's, and the workers', of which each is worth having.
SPEEDS: Final = (0.3, 0.5, 0.4, 0.4)
WORKERS: Final = range(1, len(SPEEDS))
# In which the plan is carried out, and made again once rounds have said how fast the devices are.
SETTLE: Final = 160
SLOW_AT_S: Final = 8.0
SLOWER: Final = 0.25
KILLS: Final = 20
QUICK_KILLS: Final = 3
# A text of so many tokens for each kill; of the first few, which are generated in peace, it is
# known which workers answer.
TEXT: Final = 30
PEACE: Final = 6
KILL_AT_S: Final = 0.2
RESTART_AT_S: Final = 0.5
# What happens so long after an event is because of it, and so long before or after a new plan
# because of that.
AROUND_S: Final = 1.0
LAST: Final = 0.25
"""The share of the tokens, at the end, that says what the new optimum is."""
NEAR: Final = 1.2
WINDOW: Final = 5  # tokens, of which the median counts


class Trouble(Enum):
    """What happens."""

    SLOW = "the worker with the largest share slows to a quarter"
    KILLED = "a worker is killed and started again"


class Phase(Enum):
    """In which a gap ends."""

    BEFORE = "before"
    AT_ONCE = f"within {AROUND_S:g} s"
    NEW_PLAN = "at a new plan"
    LATER = "otherwise after"


@dataclass(frozen=True)
class Case:
    trouble: Trouble

    @property
    def name(self) -> str:
        return self.trouble.value


@dataclass(frozen=True)
class Gap:
    """`at_s`: when it ended, after the first event."""

    at_s: float
    ms: float
    phase: Phase


@dataclass(frozen=True)
class Sample:
    """Of one repetition: `gaps` of its generations, by each, and what became of the texts."""

    gaps: tuple[tuple[Gap, ...], ...]
    texts: Texts

    def __str__(self) -> str:
        after = [gap.ms for gaps in self.gaps for gap in gaps if gap.phase is not Phase.BEFORE]
        words = f"longest gap {max(after, default=0.0):.0f} ms"
        return f"{words}, {self.texts}" if self.texts.runs else words


@dataclass(frozen=True)
class Gaps:
    """How long the gaps of a phase were."""

    phase: Phase
    count: int
    median_ms: float
    p99_ms: float
    longest_ms: float


@dataclass(frozen=True)
class Row:
    """`gaps`: of all repetitions. `settled_s`: until the median of five is within 20 % of the last;
    None where nothing is to settle. `course`: of the first repetition, the end of each gap in
    seconds after the event, and the gap, ms."""

    trouble: Trouble
    gaps: list[Gaps]
    settled_s: float | None
    texts: Texts
    course: list[tuple[float, float]]
    repetitions: int


def gaps_of(sample: LabSample) -> tuple[Gap, ...]:
    """Those of a generation, with what happened around them."""
    decoding, events_s = sample.decoding, sample.events_s
    ends_s = [t / 1e3 for t in accumulate(decoding.gaps_ms)]
    plans_s = [ends_s[place] for place in decoding.switched if place < len(ends_s)]
    begun_s = events_s[0] if events_s else 0.0

    def phase(begin_s: float, end_s: float) -> Phase:
        if not events_s or end_s < begun_s:
            return Phase.BEFORE
        if any(begin_s < at_s + AROUND_S and at_s <= end_s for at_s in events_s):
            return Phase.AT_ONCE
        if any(begin_s < at_s + AROUND_S and at_s - AROUND_S <= end_s for at_s in plans_s):
            return Phase.NEW_PLAN
        return Phase.LATER

    return tuple(
        Gap(end_s - begun_s, ms, phase(end_s - ms / 1e3, end_s))
        for end_s, ms in zip(ends_s, decoding.gaps_ms, strict=True)
    )


def settled_s(gaps: Sequence[Gap]) -> float:
    """Of one generation: the first time after what happened at which the median of some gaps is
    near that of those of the end. (Single gaps, and more under noise, are farther off now and then
    all the time.)"""
    after = [gap for gap in gaps if gap.at_s > 0]
    gaps_ms = [gap.ms for gap in after]
    limit_ms = NEAR * median(gaps_ms[-max(WINDOW, int(LAST * len(gaps_ms))) :] or [0.0])
    near = (
        after[end - 1].at_s
        for end in range(WINDOW, len(after) + 1)
        if median(gaps_ms[end - WINDOW : end]) <= limit_ms
    )
    return next(near, 0.0)


def _measured(settings: Settings, case: Case, tell: Tell) -> tuple[Sample, list[str]]:
    spec = lab_spec("bench-replanning", len(SPEEDS), link=LINK)
    devices = zip(spec.devices, SPEEDS, strict=True)
    spec = replace(spec, devices=tuple(replace(device, speed=s) for device, s in devices))
    with open_lab_cluster(spec, settings.model, tell, scheduled=True) as cluster:
        settled = cluster.measure(None, 1, settings.size.limit_s, SETTLE)
        tell(f"replanning: the plan has {_shares(settled)} neuron groups")
        run = _slow if case.trouble is Trouble.SLOW else _kill
        sample, warnings = run(cluster, settled, settings, tell), cluster.warnings()
    if not any(settled.shares[1:]):
        warnings.append("the plan had the root compute alone, so no worker was missed")
    return sample, warnings


def _slow(cluster: LabCluster, settled: LabSample, settings: Settings, tell: Tell) -> Sample:
    worker = max(WORKERS, key=lambda d: _groups(settled, d))
    slow = Event(SLOW_AT_S, Action.SPEED, f"n{worker}", speed=SLOWER * SPEEDS[worker])
    found = cluster.measure(Links(LINK, (slow,)), settings.size.tokens, settings.size.limit_s)
    tell(f"replanning: afterwards it has {_shares(found)}")
    return Sample((gaps_of(found),), Texts())


def _kill(cluster: LabCluster, _: LabSample, settings: Settings, tell: Tell) -> Sample:
    chance, limit_s = random.Random(1), settings.size.limit_s
    kills = QUICK_KILLS if settings.quick else KILLS
    undisturbed = cluster.measure(None, TEXT, limit_s).decoding
    gaps, texts = [], Texts()
    for kill in range(1, kills + 1):
        cluster.prepare(undisturbed.text)
        peace = cluster.decode(None, PEACE, limit_s)
        missed = peace.spent.taken_over_by_device
        at_work = [d for d in WORKERS if _groups(peace, d) and not missed.get(d)]
        worker = chance.choice(at_work or WORKERS)
        events = (
            Event(KILL_AT_S, Action.KILL, f"n{worker}"),
            Event(RESTART_AT_S, Action.RESTART, f"n{worker}"),
        )
        killed = cluster.decode(Links(LINK, events), TEXT - PEACE, limit_s)
        gaps += [gaps_of(peace), gaps_of(killed)]
        lost = bool(at_work and killed.events_s)  # else it was over before the time had come
        ran = same_text(undisturbed, [peace.decoding, killed.decoding], lost=lost)
        texts += ran
        tell(f"replanning: kill {kill}/{kills}, n{worker} of {_shares(peace)}: {ran}")
    return Sample(tuple(gaps), texts)


def _groups(sample: LabSample, device: int) -> int:
    """Of its share."""
    return dict(enumerate(sample.shares)).get(device, 0)


def _shares(sample: LabSample) -> str:
    return ", ".join(map(str, sample.shares))


def _rows(taken: Mapping[Case, Sequence[Sample]]) -> list[Row]:
    rows = []
    for case, samples in taken.items():
        gaps = [gap for sample in samples for each in sample.gaps for gap in each]
        slow = case.trouble is Trouble.SLOW
        texts = Texts()
        for sample in samples:
            texts += sample.texts
        rows.append(
            Row(
                trouble=case.trouble,
                gaps=[
                    _gaps(phase, [gap.ms for gap in gaps if gap.phase is phase])
                    for phase in dict.fromkeys(gap.phase for gap in gaps)
                ],
                settled_s=median(settled_s(s.gaps[0]) for s in samples) if slow else None,
                texts=texts,
                course=[
                    (round(gap.at_s, 3), round(gap.ms, 2))
                    for each in samples[0].gaps
                    for gap in each
                    if slow or gap.at_s <= 0 or gap.phase is not Phase.BEFORE
                ],
                repetitions=len(samples),
            )
        )
    return rows


def _gaps(phase: Phase, ms: Sequence[float]) -> Gaps:
    return Gaps(phase, len(ms), median(ms), float(np.percentile(ms, 99)), max(ms))


def _table(rows: Sequence[Row]) -> str:
    columns = (
        Column[tuple[Row, Gaps]]("", lambda both: both[0].trouble.value, left=True),
        Column[tuple[Row, Gaps]]("gaps", lambda both: both[1].phase.value, left=True),
        Column[tuple[Row, Gaps]]("number", lambda both: str(both[1].count)),
        Column[tuple[Row, Gaps]]("median, ms", lambda both: markdown.number(both[1].median_ms)),
        Column[tuple[Row, Gaps]]("p99", lambda both: markdown.number(both[1].p99_ms)),
        Column[tuple[Row, Gaps]]("longest", lambda both: markdown.number(both[1].longest_ms)),
    )
    said = []
    for row in rows:
        if row.settled_s is not None:
            said.append(f"{row.trouble.value}: near the last gaps after {row.settled_s:.1f} s.")
        if row.texts.runs:
            said.append(f"{row.trouble.value}: {row.texts}.")
    table = markdown.table(columns, [(row, gaps) for row in rows for gaps in row.gaps])
    return "\n\n".join([table, *(line[0].upper() + line[1:] for line in said)])


def _plot(rows: Sequence[Row]) -> Figure:
    with axes("seconds after it begins", "token gap, ms") as (figure, plot):
        for colour, marker, row in zip(COLOURS, MARKERS, rows, strict=False):
            x, y = [at_s for at_s, _ in row.course], [ms for _, ms in row.course]
            plot.plot(x, y, marker, c=colour, markersize=3, label=row.trouble.value, alpha=0.6)
        plot.axvline(0, color="black", linewidth=0.8)
        plot.set_yscale("log")
        ticks(plot, y=[50, 100, 200, 500, 1000, 2000, 5000])
        plot.legend(frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    return figure


REPLANNING: Final = Experiment(
    name="replanning",
    about="A device slows down, or dies again and again (Linux, root).",
    row=Row,
    model="tinyllama-1.1b",
    full=Size(repetitions=1, tokens=300, limit_s=75),
    quick=Size(repetitions=1, tokens=150, limit_s=40),
    cases=lambda _: [Case(trouble) for trouble in Trouble],
    open=by_itself(_measured),
    rows=_rows,
    table=_table,
    plot=_plot,
    in_lab=True,
)

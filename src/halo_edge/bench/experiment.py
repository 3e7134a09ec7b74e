"""What an experiment is, and how it is run: all configurations take turns, several times.

An experiment's file declares its configurations (cases), how one of them is measured once, and how
its rows are shown. The frame here knows nothing of models, networks or files.

Taking turns: a machine's speed drifts by 10-20 % within minutes, and one that measured case after
case would find that in its figures. Every second repetition goes backwards, so that what rises
steadily within a repetition favours no case. Where the host of a virtual machine gave its
processors to others, a measurement is made again, but for a quick look.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from halo_edge.bench.stolen_time import MOST, TRIES, StolenTime
from halo_edge.errors import HaloError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Size:
    """How much is measured. `tokens`: of one measurement, after the first; what an experiment
    without decode makes of it is its own. `limit_s`: after that time a measurement is cut short."""

    repetitions: int
    tokens: int
    limit_s: float


@dataclass(frozen=True)
class Settings:
    """What one run of an experiment is given. `quick`: fewer cases, too. `profile`: the model's,
    for policies that relax."""

    model: Path
    size: Size
    quick: bool = False
    profile: Path | None = None


class Case(Protocol):
    """One configuration. Hashable."""

    @property
    def name(self) -> str: ...


class Sample(Protocol):
    """What one measurement of a case gave."""

    def __str__(self) -> str:
        """In a few words, for the progress line."""


CaseT = TypeVar("CaseT", bound=Case)
SampleT = TypeVar("SampleT", bound=Sample)
RowT = TypeVar("RowT")


@dataclass(frozen=True)
class Opened(Generic[CaseT, SampleT]):
    """An experiment's cases, ready to be measured. `warnings`: reasons to distrust what was
    measured so far, one line each. `drop`: a sample is not used, and its warnings are of no
    interest, where they are its own."""

    measure: Callable[[CaseT], SampleT]
    warnings: Callable[[], list[str]] = list
    drop: Callable[[SampleT], None] = lambda _: None


Open = Callable[[Settings, Sequence[CaseT], Tell], AbstractContextManager[Opened[CaseT, SampleT]]]


def by_itself(
    measure: Callable[[Settings, CaseT, Tell], tuple[SampleT, Sequence[str]]],
) -> Open[CaseT, SampleT]:
    """For an experiment whose every measurement opens and closes what it needs, so that no other's
    processes are there meanwhile. `measure` also gives warnings."""

    @contextmanager
    def opened(
        settings: Settings, cases: Sequence[CaseT], tell: Tell
    ) -> Iterator[Opened[CaseT, SampleT]]:
        samples: list[tuple[SampleT, list[str]]] = []

        def one(case: CaseT) -> SampleT:
            sample, found = measure(settings, case, tell)
            samples.append((sample, [f"{case.name}: {line}" for line in found]))
            return sample

        def warnings() -> list[str]:
            return [line for _, lines in samples for line in lines]

        def drop(unused: SampleT) -> None:
            samples[:] = [each for each in samples if each[0] is not unused]

        yield Opened(one, warnings, drop)

    return opened


@dataclass(frozen=True)
class Experiment(Generic[CaseT, SampleT, RowT]):
    """`row` is the type of `rows`: a dataclass that JSON can hold. `model`: the shape of the
    synthetic model it runs on (`model.synth.SHAPES`), or None for the demo model. `about`: one line
    for people. `options`: what else of the command line decides what it measures. `in_lab`: it
    needs one.
    `uses_profile`: it has something to do with `Settings.profile`, where there is one.

    `table` and `plot` need nothing but rows, which may come from a file.
    """

    name: str
    row: type[RowT]
    model: str | None
    full: Size
    quick: Size
    cases: Callable[[Settings], Sequence[CaseT]]
    open: Open[CaseT, SampleT]
    rows: Callable[[Mapping[CaseT, Sequence[SampleT]]], list[RowT]]
    table: Callable[[Sequence[RowT]], str]
    plot: Callable[[Sequence[RowT]], Figure] | None
    about: str = ""
    options: Mapping[str, str] = field(default_factory=dict)
    in_lab: bool = False
    uses_profile: bool = False


@dataclass(frozen=True)
class Measured(Generic[RowT]):
    """What a run gave."""

    rows: list[RowT]
    warnings: list[str]


def measure(
    experiment: Experiment[CaseT, SampleT, RowT],
    settings: Settings,
    tell: Tell,
    stolen_time: Callable[[], StolenTime] = StolenTime,
) -> Measured[RowT]:
    """Run it. `tell` is given a line after each measurement. Raises `HaloError`."""
    cases = experiment.cases(settings)
    if len(set(cases)) != len(cases):
        raise ValueError(f"{experiment.name} has a case twice")
    taken: dict[CaseT, list[SampleT]] = {case: [] for case in cases}
    repetitions = settings.size.repetitions
    stolen: list[str] = []
    with experiment.open(settings, cases, tell) as opened:
        for repetition, case in turns(cases, repetitions):
            where = f"{experiment.name} {repetition + 1}/{repetitions}, {case.name}"
            sample, share = _undisturbed(
                opened, case, 1 if settings.quick else TRIES, where, tell, stolen_time
            )
            taken[case].append(sample)
            tell(f"{where}: {sample}")
            if share > MOST:
                stolen.append(f"{case.name}: {_of_the_time(share)}")
        warnings = opened.warnings() + stolen
    return Measured(experiment.rows(taken), warnings)


def _undisturbed(
    opened: Opened[CaseT, SampleT],
    case: CaseT,
    tries: int,
    where: str,
    tell: Tell,
    stolen_time: Callable[[], StolenTime],
) -> tuple[SampleT, float]:
    """Of up to so many samples the first that was let alone, or else the one that was disturbed
    least, and the share of the time that others had."""
    found: list[tuple[SampleT, float]] = []
    for _ in range(tries):
        since = stolen_time()
        sample = opened.measure(case)
        share = since.share
        found.append((sample, share))
        if share <= MOST:
            break
        tell(f"{where}: {sample}; {_of_the_time(share)}")
    best = min(found, key=lambda each: each[1])
    for sample, _ in found:
        if sample is not best[0]:
            opened.drop(sample)
    return best


def _of_the_time(share: float) -> str:
    return f"the host of this machine gave {share:.0%} of its processors' time to others"


def turns(cases: Sequence[CaseT], repetitions: int) -> Iterator[tuple[int, CaseT]]:
    """(repetition, case), in the order in which they are measured."""
    for repetition in range(repetitions):
        for case in cases if repetition % 2 == 0 else reversed(cases):
            yield repetition, case


def sized(size: Size, repetitions: int | None = None, tokens: int | None = None) -> Size:
    """`size` with what was asked for otherwise. Raises `HaloError` for nothing to measure."""
    repetitions = size.repetitions if repetitions is None else repetitions
    tokens = size.tokens if tokens is None else tokens
    if repetitions < 1 or tokens < 1:
        raise HaloError("there is nothing to measure in 0 repetitions or 0 tokens")
    return Size(repetitions, tokens, size.limit_s)

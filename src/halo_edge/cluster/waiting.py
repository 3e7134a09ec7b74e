"""Which of the devices that keep a round waiting it goes on without.

`BudgetedChoice` is the product's. The others are what it is measured against.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Final, Protocol

from halo_edge.cluster.relaxation import RelaxOptions, Waiting
from halo_edge.sync.budget import Budget
from halo_edge.sync.ids import DeviceId
from halo_edge.sync.relax import Candidate, Price, choose

# More is never given up, whatever the policy: an attention sink, a layer that all others build on.
PROTECTED_NATS: Final = 0.5
# A running median moves by so much of itself with each value.
MEDIAN_STEP: Final = 0.05


class Choice(Protocol):
    """Chooses among the candidates of one round, as often as the round is looked at."""

    def begin_step(self, fullness: float) -> None:
        """A step begins; how full the emptiest bucket is, 0 ... 1."""

    def begin_round(self) -> None: ...

    def choose(
        self, candidates: Sequence[Candidate], static: Callable[[DeviceId], float]
    ) -> Sequence[Candidate]:
        """`static`: what going without a device costs on average, in this layer, in nats."""


class BudgetedChoice:
    """The most time for the least damage, as far as the budget covers it (`sync.relax`)."""

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self._price = Price()

    def begin_step(self, fullness: float) -> None:
        self._price.step(fullness)

    def begin_round(self) -> None: ...

    def choose(
        self, candidates: Sequence[Candidate], static: Callable[[DeviceId], float]
    ) -> Sequence[Candidate]:
        return choose(candidates, self._budget, self._price)


class ShareChoice:
    """Gives up those whose score is below the median of all scores so far, or all of them.

    Every loss is judged once. `score` None: give up all that is not protected.
    """

    def __init__(
        self,
        score: Callable[[Candidate, Callable[[DeviceId], float]], float] | None,
    ) -> None:
        self._score = score
        self._median = 0.0
        self._waited_for: set[DeviceId] = set()

    def begin_step(self, fullness: float) -> None: ...

    def begin_round(self) -> None:
        self._waited_for.clear()

    def choose(
        self, candidates: Sequence[Candidate], static: Callable[[DeviceId], float]
    ) -> Sequence[Candidate]:
        return [c for c in candidates if self._gives_up(c, static)]

    def _gives_up(self, candidate: Candidate, static: Callable[[DeviceId], float]) -> bool:
        if candidate.device in self._waited_for or candidate.nats > PROTECTED_NATS:
            return False
        if self._score is None:
            return True
        score = self._score(candidate, static)
        self._median = self._median or score
        below = score < self._median
        self._median *= 1 - MEDIAN_STEP if below else 1 + MEDIAN_STEP
        if not below:
            self._waited_for.add(candidate.device)
        return below


def choice_of(options: RelaxOptions, budget: Budget, seed: int = 1) -> Choice:
    """The policy that `options` ask for, where they relax anything."""
    if not options.recovery or options.waiting is Waiting.NONE:
        return ShareChoice(None)
    if options.waiting is Waiting.RANDOM_HALF:
        random_source = random.Random(seed)
        return ShareChoice(lambda candidate, static: 0.5 + random_source.random())
    if options.waiting is Waiting.STATIC_HALF:
        return ShareChoice(lambda candidate, static: static(candidate.device))
    if options.waiting is Waiting.PREDICTED_HALF:
        return ShareChoice(lambda candidate, static: candidate.nats)
    return BudgetedChoice(budget)

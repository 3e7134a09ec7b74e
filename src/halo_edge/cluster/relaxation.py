"""How far a root may relax its rounds, and what it has cost: settings and figures.

What is decided with them is in `relaxing.py`; this file is what commands and experiments name.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Final, TypeVar

from halo_edge.groups.surrogate import Fill

STRICT: Final = 0.0
BALANCED: Final = 0.005
FAST: Final = 0.02
LEVELS: Final[Mapping[str, float]] = {"strict": STRICT, "balanced": BALANCED, "fast": FAST}
"""What `--kl-budget` names, in nats a token."""

MAX_COPIES: Final = 4

Place = tuple[int, int]
"""A device's part of a layer: (device, layer)."""

_Number = TypeVar("_Number", int, float)


class Waiting(Enum):
    """Which lost chunks a round waits for. All but BUDGET are for comparison: they know no budget,
    and charge it all the same. HALF: of all losses half are waited for: those with more at stake.
    """

    BUDGET = "budget"
    ALL = "all"
    NONE = "none"
    RANDOM_HALF = "random half"
    STATIC_HALF = "static half"
    PREDICTED_HALF = "predicted half"


@dataclass(frozen=True)
class RelaxOptions:
    """`kl_budget`: nats a token, 0 being strict; more needs a profile. `recovery` false: what is
    missing is never asked for, nor computed by the root: for comparison."""

    kl_budget: float = STRICT
    fill: Fill = Fill.SKETCH
    learning: bool = True
    waiting: Waiting = Waiting.BUDGET
    take_over: bool = True
    max_copies: int = MAX_COPIES
    recovery: bool = True

    @property
    def relaxes(self) -> bool:
        """Whether anything may ever be gone on without."""
        if not self.recovery:
            return True
        return self.kl_budget > 0 if self.waiting is Waiting.BUDGET else self.waiting != Waiting.ALL


@dataclass(frozen=True)
class Happened:
    """Chunks of partials that did not come by themselves, since the session began."""

    recovered: Mapping[Place, int] = field(default_factory=dict)
    filled: Mapping[Place, int] = field(default_factory=dict)
    taken_over: Mapping[Place, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Spent:
    """What rounds needed beyond what came by itself. Chunks of partials.

    `nats`: the predicted damage of what was filled. `strict_rounds`: in which nothing could be gone
    without, though it was allowed: what would take its place was not there yet. By device, by
    layer: only where there was some.
    """

    rounds: int = 0
    chunks_recovered: int = 0
    chunks_filled: int = 0
    chunks_taken_over: int = 0
    nats: float = 0.0
    filled_by_device: Mapping[int, int] = field(default_factory=dict)
    filled_by_layer: Mapping[int, int] = field(default_factory=dict)
    nats_by_layer: Mapping[int, float] = field(default_factory=dict)
    taken_over_by_device: Mapping[int, int] = field(default_factory=dict)
    away: Mapping[int, int] = field(default_factory=dict)
    """How often each device was taken for gone."""
    strict_rounds: int = 0

    @property
    def fidelity(self) -> float:
        """exp(-nats): 1 is what the model says by itself."""
        return math.exp(-self.nats)

    def since(self, before: Spent) -> Spent:
        """What was spent after `before`, an earlier one of the same cluster."""
        return Spent(
            self.rounds - before.rounds,
            self.chunks_recovered - before.chunks_recovered,
            self.chunks_filled - before.chunks_filled,
            self.chunks_taken_over - before.chunks_taken_over,
            self.nats - before.nats,
            _difference(self.filled_by_device, before.filled_by_device),
            _difference(self.filled_by_layer, before.filled_by_layer),
            _difference(self.nats_by_layer, before.nats_by_layer),
            _difference(self.taken_over_by_device, before.taken_over_by_device),
            _difference(self.away, before.away),
            self.strict_rounds - before.strict_rounds,
        )


def _difference(after: Mapping[int, _Number], before: Mapping[int, _Number]) -> dict[int, _Number]:
    differences = {
        key: value - before[key] if key in before else value for key, value in after.items()
    }
    return {key: value for key, value in differences.items() if value}

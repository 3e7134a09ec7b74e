"""Which devices a round goes on without: the most time saved for the least predicted damage.

Pure decisions: devices that keep a round waiting, how long each is expected to, and what going on
without it would cost in nats come in; the devices to give up go out. A round ends when the last
device is in, so giving up one device saves only the time until the next one: devices are given up
in the order of how long they would take, as far as it pays.

Whether it pays is a question of the price of time. A budget that is spent on the first loss that
comes is not there for the burst that follows, and one that is never spent helps nobody: so the
price, in nats for each second saved, rises while the bucket is full and falls when something worth
its price cannot be paid.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from halo_edge.sync.budget import Budget, SequenceKey
from halo_edge.sync.ids import DeviceId

K_INITIAL_PRICE: Final = 1.0
"""Nats for a second: 2 ms, a retransmission, for 0.002 nats, which is less than half a token's
default budget."""
K_MIN_PRICE: Final = 1e-2
K_MAX_PRICE: Final = 1e2
K_DEARER: Final = 1.02
"""For each step that begins with a bucket more than half full."""
K_CHEAPER: Final = 0.9
"""For each purchase that the bucket did not cover."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A device that keeps the round waiting.

    `wait_s`: for how long yet, or how long it takes to get the same in another way, if that is
    shorter. `charges`: the predicted damage of going on without it, for each sequence, in nats.
    """

    device: DeviceId
    wait_s: float
    charges: Mapping[SequenceKey, float]

    @property
    def nats(self) -> float:
        return sum(self.charges.values())


def together(candidates: Sequence[Candidate]) -> dict[SequenceKey, float]:
    """The charges of all of them."""
    charges: dict[SequenceKey, float] = {}
    for candidate in candidates:
        for sequence, nats in candidate.charges.items():
            charges[sequence] = charges.get(sequence, 0.0) + nats
    return charges


class Price:
    """What a second saved may cost now, in nats."""

    def __init__(self) -> None:
        self.nats_per_s = K_INITIAL_PRICE

    def step(self, fullness: float) -> None:
        """A step begins with the buckets so full."""
        if fullness > 0.5:
            self.nats_per_s = min(K_MAX_PRICE, self.nats_per_s * K_DEARER)

    def uncovered(self) -> None:
        """Something worth its price could not be paid."""
        self.nats_per_s = max(K_MIN_PRICE, self.nats_per_s * K_CHEAPER)


def choose(candidates: Sequence[Candidate], budget: Budget, price: Price) -> list[Candidate]:
    """The candidates to go on without, perhaps none. Charges nothing.

    Everything that a round still waits for must be among the candidates: time is only saved if the
    last one is given up. Of the longest 1, 2, ... it takes as many as bring the most, time saved at
    its price less damage, and the budget covers.
    """
    by_wait = sorted(candidates, key=lambda candidate: -candidate.wait_s)
    best: list[Candidate] = []
    most, refused = 0.0, False
    damage = 0.0
    for n, candidate in enumerate(by_wait, 1):
        damage += candidate.nats
        next_s = by_wait[n].wait_s if n < len(by_wait) else 0.0
        gain = (by_wait[0].wait_s - next_s) * price.nats_per_s - damage
        if gain <= most:
            continue
        if budget.covers(together(by_wait[:n])):
            best, most = by_wait[:n], gain
        else:
            refused = True
    if refused and not best:
        price.uncovered()
    return best

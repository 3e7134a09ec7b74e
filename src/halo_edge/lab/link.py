"""What one direction of a bad link does to packets: it loses, delays, damages and repeats them.

The same object stands behind the packet forwarder, the simulator and `--impair`, so that a setting
means the same in all of them. Sans-IO: it is given the time and a size, and says when the packet
arrives. Randomness comes from the seed it is given.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, field
from typing import Final, NamedTuple

# A burst link that was left alone for longer than this starts anew rather than living through it.
FORGET_AFTER_CYCLES: Final = 1000
MAX_DELAY_MS: Final = 10_000.0
MIN_MEAN_MS: Final = 0.01


@dataclass(frozen=True)
class Burst:
    """Loss that comes in bursts: the Gilbert-Elliott model, clocked by time and not by packets.

    The link is good for `good_ms` and bad for `bad_ms`, each the mean of an exponential
    distribution. In the bad state it loses packets with probability `loss`. A model that is clocked
    by packets would make the burst longer the less is sent, and an idle link would never recover.
    """

    good_ms: float
    bad_ms: float
    loss: float = 1.0

    def __post_init__(self) -> None:
        for mean_ms in (self.good_ms, self.bad_ms):
            if not MIN_MEAN_MS <= mean_ms < math.inf:
                raise ValueError(f"burst: good_ms and bad_ms are mean times, {MIN_MEAN_MS} or more")
        if not 0 <= self.loss <= 1:
            raise ValueError("burst: loss is a probability, 0 to 1")

    @property
    def mean_loss(self) -> float:
        """The share of packets lost over a long time."""
        return self.loss * self.bad_ms / (self.good_ms + self.bad_ms)


@dataclass(frozen=True)
class LinkSettings:
    """One direction of a link. Raises ValueError for what makes no sense.

    `loss`, `duplicate`, `corrupt`, `reorder`: probabilities, independent for each packet.
    `delay_ms`: one way; `jitter_ms`: up to so much more, uniformly. A packet that jitter would let
    overtake another waits behind it, as in a queue, unless `reorder` lets it pass.
    `rate_mbit`: 10^6 bits/s (None: no limit), with a queue of `queue_ms` before it, whose overflow
    is lost. `cut`: nothing passes.
    """

    loss: float = 0.0
    burst: Burst | None = None
    delay_ms: float = 0.0
    jitter_ms: float = 0.0
    rate_mbit: float | None = None
    queue_ms: float = 100.0
    duplicate: float = 0.0
    corrupt: float = 0.0
    reorder: float = 0.0
    cut: bool = False

    def __post_init__(self) -> None:
        for name in ("loss", "duplicate", "corrupt", "reorder"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is a probability, 0 to 1")
        for name in ("delay_ms", "jitter_ms", "queue_ms"):
            if not 0 <= getattr(self, name) <= MAX_DELAY_MS:
                raise ValueError(f"{name} is between 0 and {MAX_DELAY_MS:.0f}")
        if self.rate_mbit is not None and not 0 < self.rate_mbit < math.inf:
            raise ValueError("rate_mbit is above 0")

    @property
    def mean_loss(self) -> float:
        """The share of packets lost over a long time, queue overflow aside."""
        if self.cut:
            return 1.0
        burst = self.burst.mean_loss if self.burst is not None else 0.0
        return 1 - (1 - self.loss) * (1 - burst)


class BurstState:
    """Whether a bursting link is bad, from moment to moment. Randomness comes from `rng`."""

    def __init__(self, rng: random.Random) -> None:
        self._random = rng
        self._bad = False
        self.changes_at = -math.inf
        """When it changes next, as of the last call of `bad`."""

    def bad(self, burst: Burst, now: float) -> bool:
        """Whether the link is bad at `now` (seconds, never going back)."""
        cycle_s = (burst.good_ms + burst.bad_ms) / 1e3
        if now - self.changes_at > FORGET_AFTER_CYCLES * cycle_s:
            self._bad = self._random.random() < burst.bad_ms / (1e3 * cycle_s)
            self.changes_at = now + self._stay_s(burst)
        while self.changes_at <= now:
            self._bad = not self._bad
            self.changes_at += self._stay_s(burst)
        return self._bad

    def _stay_s(self, burst: Burst) -> float:
        mean_ms = burst.bad_ms if self._bad else burst.good_ms
        return self._random.expovariate(1e3 / mean_ms)


class Arrival(NamedTuple):
    """A packet that gets through. `damaged`: the bit (from 0) that is flipped on the way, or -1."""

    at_s: float
    damaged: int = -1


@dataclass
class LinkCounters:
    """Packets since the beginning. `lost`: to chance; `overflowed`: of the queue; `cut`: while the
    link was cut."""

    offered: int = 0
    lost: int = 0
    overflowed: int = 0
    cut: int = 0

    @property
    def realised_loss(self) -> float:
        """The share of packets lost to chance, of those that chance was asked about."""
        asked = self.offered - self.overflowed - self.cut
        return self.lost / asked if asked else 0.0


@dataclass
class Link:
    """One direction of a link. `settings` may be replaced at any time."""

    settings: LinkSettings
    seed: str
    counters: LinkCounters = field(default_factory=LinkCounters)

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)
        self._free_at = -math.inf  # when the rate lets the next packet begin
        self._last_arrival = -math.inf
        self._burst = BurstState(self._random)

    def send(self, nbytes: int, now: float) -> tuple[Arrival, ...]:
        """A packet of `nbytes` enters at `now` (seconds, never going back): its arrivals.

        None for a lost packet, two for one that is repeated.
        """
        settings, rng, counters = self.settings, self._random, self.counters
        counters.offered += 1
        if settings.cut:
            counters.cut += 1
            return ()
        leaves = now
        if settings.rate_mbit is not None:
            begins = max(now, self._free_at)
            if begins - now > settings.queue_ms / 1e3:
                counters.overflowed += 1
                return ()
            leaves = self._free_at = begins + nbytes * 8e-6 / settings.rate_mbit
        if rng.random() < settings.loss or (
            settings.burst is not None
            and self._burst.bad(settings.burst, now)
            and rng.random() < settings.burst.loss
        ):
            counters.lost += 1
            return ()
        first = self._arrival(nbytes, leaves)
        if settings.duplicate and rng.random() < settings.duplicate:
            return (first, self._arrival(nbytes, leaves))
        return (first,)

    def _arrival(self, nbytes: int, leaves: float) -> Arrival:
        settings, rng = self.settings, self._random
        at = leaves + settings.delay_ms / 1e3
        if settings.jitter_ms:
            at += rng.random() * settings.jitter_ms / 1e3
        if not (settings.reorder and rng.random() < settings.reorder):
            at = self._last_arrival = max(at, self._last_arrival)
        if settings.corrupt and rng.random() < settings.corrupt:
            return Arrival(at, rng.randrange(8 * nbytes))
        return Arrival(at)

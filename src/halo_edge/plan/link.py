"""What is known of a device's link: delays, rates and losses, each way.

A datagram passes its sender's link up and its receiver's link down, as in a star around a switch.
Whoever knows only the way from one device to another writes it down as one of the two.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field


@dataclass(frozen=True)
class OneWay:
    """`delay_s`: of a datagram, beside its own length. `jitter_s`: up to so much more, uniformly,
    in order. `bytes_per_s`: infinite where no limit is known. `loss`: PLR, the share of datagrams
    lost. `again`: the share lost of those that are sent beside a lost one; None: no more than of
    others, as losses are independent. Raises ValueError for what makes no sense.
    """

    delay_s: float = 0.0
    jitter_s: float = 0.0
    bytes_per_s: float = math.inf
    loss: float = 0.0
    again: float | None = None

    def __post_init__(self) -> None:
        if not (0 <= self.delay_s < math.inf and 0 <= self.jitter_s < math.inf):
            raise ValueError("a link's delay and jitter are finite and not negative")
        if not self.bytes_per_s > 0:
            raise ValueError("a link's rate is above 0")
        if not 0 <= self.loss < 1 or not 0 <= self.lost_again <= 1:
            raise ValueError("a link's loss is a probability below 1")

    @property
    def lost_again(self) -> float:
        """Of those sent beside a lost one. Never below `loss`."""
        return self.loss if self.again is None else max(self.loss, self.again)

    def then(self, other: OneWay) -> OneWay:
        """Both, one after another. The slower one sets the rate."""
        return OneWay(
            self.delay_s + other.delay_s,
            self.jitter_s + other.jitter_s,
            min(self.bytes_per_s, other.bytes_per_s),
            1 - (1 - self.loss) * (1 - other.loss),
            1 - (1 - self.lost_again) * (1 - other.lost_again),
        )

    def missing(self, copies: int) -> float:
        """The probability that all `copies` of a chunk are lost."""
        return self.loss * self.lost_again ** (copies - 1)

    def passes_s(self, datagrams: int) -> float:
        """From when the last of so many datagrams has left to when all have come: of as many
        jitters, the greatest counts."""
        return self.delay_s + self.jitter_s * datagrams / (datagrams + 1)


@dataclass(frozen=True)
class Link:
    """A device's. `up`: from it; `down`: to it."""

    up: OneWay = field(default_factory=OneWay)
    down: OneWay = field(default_factory=OneWay)

    @classmethod
    def alike(
        cls,
        *,
        rtt_s: float = 0.0,
        bytes_per_s: float = math.inf,
        loss: float = 0.0,
        again: float | None = None,
    ) -> Link:
        """The same both ways; `rtt_s`: there and back."""
        way = OneWay(rtt_s / 2, 0.0, bytes_per_s, loss, again)
        return cls(way, way)

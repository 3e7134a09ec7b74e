"""How long to wait: the timing constants, and the estimator they feed.

No clock is read here: times come in as arguments, in seconds of any clock that only goes forward.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

K_FASTEST_OF: Final = 128
"""Rounds of a few tokens, in which nothing kept an answer at least once."""
K_ALPHA: Final = 1 / 8  # RFC 6298 section 2.3
K_BETA: Final = 1 / 4
K_VARIATIONS: Final = 4  # "K" there

K_MAX_SAMPLE_S: Final = 1.0
"""Slower is an outage or a device asleep, and says nothing of the next time."""

K_MAX_SAMPLE_PER_TOKEN_S: Final = 0.1
"""A device that computes so long for each token of a prefill is slow, not asleep."""

K_AWAY_ANSWERS: Final = 4
"""A device is not away before it has been silent for so many of its answer timeouts."""

K_COPIES: Final = 2
"""How often a WANT, and a chunk that is sent again, go on the wire, and more often where small
matrices do. To lose one of the two costs a timeout of several round trips; a copy costs a system
call at each end, where the replay window drops it unopened."""

K_UNLIMITED: Final = 1 << 32
K_MAX_DOUBLINGS: Final = 2
"""TCP doubles without end, lest it feed a congested link; a WANT is 80 bytes, and at 60 % loss it
takes six tries on average to get one and its answer through."""


@dataclass(frozen=True, slots=True)
class Recovery:
    """When to ask for what has not come. Times in seconds.

    A wait that turns out too short costs one small datagram and perhaps a chunk sent twice; one
    that is too long costs every device of the cluster the difference. Hence the low floor.
    """

    reliable: bool = False
    """Something underneath (TCP) delivers everything in order: never ask, and send unthrottled."""

    min_timeout_s: float = 0.001
    """The floor of every timeout; TCP's is 0.2. Below it, schedulers' jitter looks like loss."""

    min_variation_s: float = 0.00025
    """The least that a timeout is above the mean (G in RFC 6298 section 2.3): a steady time's
    variation vanishes, and the first one a little later would pass for a loss."""

    min_gap_s: float = 0.0005
    """The floor of the wait for the next chunk of a matrix, which its sender sends in one go."""

    max_backoff_s: float = 0.1
    """Doubling a timeout stops here, so that the end of an outage is noticed that soon."""

    initial_round_trip_s: float = 0.05
    """How long a retransmission is waited for on a link of which nothing is known."""

    initial_gap_s: float = 0.01
    """How long the next chunk of a matrix is waited for before anything is known."""

    initial_answer_s: float = 0.05
    initial_answer_per_token_s: float = 0.002
    """How long the first chunk of an answer is waited for before the device has given any."""

    max_tries: int = 16
    """WANTs a worker sends in a row without hearing anything; then it waits for the root's."""

    away_after_s: float = math.inf
    """A worker silent for so long, and for K_AWAY_ANSWERS answer timeouts, is taken over from.
    Infinite: nobody could, and a silent worker stalls the round."""

    probe_interval_s: float = 0.02
    """How often a worker that is away is sent something."""

    max_copies: int = 1
    """How often a chunk may go on the wire at once, where losses make it worth while."""

    @property
    def can_take_over(self) -> bool:
        """Whether a silent worker's part can be done by somebody else."""
        return self.away_after_s != math.inf

    def window(self, chunks: int) -> int:
        """How many chunks may be under way: `chunks`, or any number if something else throttles."""
        return K_UNLIMITED if self.reliable else chunks

    def floor_s(self) -> float:
        """What no timeout goes below: without end if asking is never of use."""
        return math.inf if self.reliable else self.min_timeout_s

    def gap_floor_s(self) -> float:
        """As `floor_s`, between the chunks of a matrix."""
        return math.inf if self.reliable else self.min_gap_s

    def backed_off_s(self, timeout_s: float, tries: int) -> float:
        """`timeout_s` doubled for each try made in vain, up to the cap, but never made shorter."""
        doubled = timeout_s * (1 << min(tries, K_MAX_DOUBLINGS))
        return max(timeout_s, min(doubled, self.max_backoff_s))


class TimeoutEstimator:
    """How long to wait for something that has taken so and so long before (RFC 6298 section 2)."""

    __slots__ = (
        "_earlier_s",
        "_floor_s",
        "_lately_s",
        "_max_sample_s",
        "_min_variation_s",
        "_samples",
        "_smoothed_s",
        "_variation_s",
        "bound_s",
        "timeout_s",
    )

    def __init__(
        self,
        initial_s: float,
        floor_s: float,
        *,
        min_variation_s: float = 0.0,
        max_sample_s: float = K_MAX_SAMPLE_S,
    ) -> None:
        self._floor_s = floor_s
        self._min_variation_s = min_variation_s
        self._max_sample_s = max_sample_s
        self._smoothed_s = -1.0  # no sample yet
        self._variation_s = 0.0
        self._samples = 0
        self._lately_s = self._earlier_s = math.inf  # the least of this lot of samples, and before
        self.timeout_s = max(floor_s, initial_s)
        """Wait so long, then act."""
        self.bound_s: float | None = None
        """It takes no longer, as a rule: `timeout_s` without the floor. None before a sample."""

    @property
    def mean_s(self) -> float | None:
        """How long it takes: SRTT. None before the first sample."""
        return None if self._smoothed_s < 0 else self._smoothed_s

    @property
    def fastest_s(self) -> float | None:
        """The least of the last one or two times `K_FASTEST_OF` samples. None before the first."""
        least_s = min(self._lately_s, self._earlier_s)
        return None if least_s == math.inf else least_s

    def sample(self, took_s: float) -> None:
        """Takes in one more measurement."""
        took_s = min(took_s, self._max_sample_s)
        if self._samples == K_FASTEST_OF:
            self._samples, self._earlier_s, self._lately_s = 0, self._lately_s, took_s
        elif took_s < self._lately_s:
            self._lately_s = took_s
        self._samples += 1
        if self._smoothed_s < 0:
            self._smoothed_s = took_s
            self._variation_s = took_s / 2
        else:
            error_s = took_s - self._smoothed_s
            self._variation_s += K_BETA * (abs(error_s) - self._variation_s)
            self._smoothed_s += K_ALPHA * error_s
        margin_s = K_VARIATIONS * self._variation_s
        if margin_s < self._min_variation_s:
            margin_s = self._min_variation_s
        self.bound_s = timeout_s = self._smoothed_s + margin_s
        self.timeout_s = timeout_s if timeout_s > self._floor_s else self._floor_s

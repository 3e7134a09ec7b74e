"""How long a device's neurons take it in decode, lately: from the rounds themselves."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Final

# The weight of a new round: a mean over some 64, a few tokens.
_NEWEST: Final = 1 / 64


@dataclass(frozen=True)
class DecodeTimes:
    """Of a device with so many `neurons` of each layer: seconds of CPU time and of the clock that
    one token's FFN takes in a layer, means over the last of so many `rounds`. `round_cpu_s`: CPU
    time of a whole round, whatever it is spent on."""

    neurons: int
    rounds: int = 0
    cpu_s: float = 0.0
    wall_s: float = 0.0
    round_cpu_s: float = 0.0


class DecodeClock:
    """Of a device with so many neurons. CPU time is that of the thread which computes: with several
    threads all are busy for about as long."""

    def __init__(self, neurons: int) -> None:
        self.times = DecodeTimes(neurons)
        """Any thread may ask."""
        self._begun_s = 0.0
        self._begun_cpu_s = 0.0
        self._ended_cpu_s: float | None = None

    def begin(self) -> None:
        """A round of one token is about to be computed."""
        self._begun_s, self._begun_cpu_s = time.monotonic(), time.thread_time()

    def end(self) -> None:
        """It is done."""
        cpu_s, wall_s = time.thread_time(), time.monotonic()
        before_s, self._ended_cpu_s = self._ended_cpu_s, cpu_s
        if before_s is not None:
            self.sample(cpu_s - self._begun_cpu_s, wall_s - self._begun_s, cpu_s - before_s)

    def skip(self) -> None:
        """A round of several tokens."""
        self._ended_cpu_s = None

    def sample(self, cpu_s: float, wall_s: float, round_cpu_s: float) -> None:
        """A round took so long."""
        known = self.times
        rounds = known.rounds + 1
        # A plain mean at first: each round so far counts alike.
        weight = max(_NEWEST, 1 / rounds)
        self.times = DecodeTimes(
            known.neurons,
            rounds,
            known.cpu_s + weight * (cpu_s - known.cpu_s),
            known.wall_s + weight * (wall_s - known.wall_s),
            known.round_cpu_s + weight * (round_cpu_s - known.round_cpu_s),
        )


class RootClock:
    """What the root's rounds take, in CPU time, and what it does between them: between those of two
    layers (attention), and of two tokens (head, sampling, and the first layer's attention). Means
    over the last; for steps of one token."""

    def __init__(self) -> None:
        self.begun_steps = 0
        """Of however many tokens. Any thread may ask."""
        self.rounds = 0
        """Any thread may ask, also for the means; 0 where there is none yet."""
        self.round_s = 0.0
        self.layer_s = 0.0
        self.step_s = 0.0
        self._steps = 0
        self._begun_cpu_s = 0.0
        self._ended_cpu_s: float | None = None

    def begin(self, layer: int) -> None:
        """A round begins."""
        self.begun_steps += not layer
        self._begun_cpu_s = time.thread_time()
        if self._ended_cpu_s is None:
            return
        took_s = self._begun_cpu_s - self._ended_cpu_s
        if layer:
            self.rounds += 1
            self.layer_s += max(_NEWEST, 1 / self.rounds) * (took_s - self.layer_s)
        else:
            self._steps += 1
            self.step_s += max(_NEWEST, 1 / self._steps) * (took_s - self.step_s)

    def end(self, tokens: int) -> None:
        """It has ended."""
        if tokens != 1:
            self._ended_cpu_s = None
            return
        self._ended_cpu_s = time.thread_time()
        weight = max(_NEWEST, 1 / (self.rounds + self._steps + 1))
        self.round_s += weight * (self._ended_cpu_s - self._begun_cpu_s - self.round_s)

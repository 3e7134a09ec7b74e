"""How long pieces of work take, one after another."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from statistics import fmean
from typing import Final

# The slowest are those in which another process had the core.
TRIM: Final = 0.1
# Readings of the clock, to see what one costs.
_READINGS: Final = 50


class Stopwatch:
    """Seconds of each kind of work, by `clock`; what reading that costs does not count."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._taken: dict[str, list[float]] = {}
        self._last = 0.0
        readings = [clock() for _ in range(_READINGS)]
        # CPU time comes from the kernel, in 0.2 to 1 us: no trifle against encoding a row.
        self._reading_s = min(b - a for a, b in pairwise(readings))

    def start(self) -> None:
        """What comes now counts for the next lap."""
        self._last = self._clock()

    def lap(self, what: str, count: int = 1) -> None:
        """`what` was done, so many times, since the last lap or start."""
        took_s = max(0.0, self._clock() - self._last - self._reading_s)
        if count:
            self._taken.setdefault(what, []).append(took_s / count)
        self._last = self._clock()

    def typical_s(self, what: str) -> float:
        """Seconds it takes once. Raises KeyError for what was never done."""
        return typical(self._taken[what])

    def quick_s(self, what: str) -> float:
        """Seconds it takes when nothing interferes: a tenth of the laps were quicker. Raises
        KeyError for what was never done."""
        taken = sorted(self._taken[what])
        return taken[len(taken) // 10]


def typical(seconds: Sequence[float]) -> float:
    """The mean of all but the slowest."""
    return fmean(sorted(seconds)[: max(1, round(len(seconds) * (1 - TRIM)))])

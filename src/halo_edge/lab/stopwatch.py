"""How long pieces of work take, one after another."""

from __future__ import annotations

import time
from collections.abc import Sequence
from statistics import fmean
from typing import Final

# The slowest are those in which another process had the core.
TRIM: Final = 0.1


class Stopwatch:
    """Seconds of each kind of work."""

    def __init__(self) -> None:
        self._taken: dict[str, list[float]] = {}
        self._last = 0.0

    def start(self) -> None:
        """What comes now counts for the next lap."""
        self._last = time.perf_counter()

    def lap(self, what: str, count: int = 1) -> None:
        """`what` was done, so many times, since the last lap or start."""
        now = time.perf_counter()
        if count:
            self._taken.setdefault(what, []).append((now - self._last) / count)
        self._last = time.perf_counter()

    def typical_s(self, what: str) -> float:
        """Seconds it takes once."""
        return typical(self._taken[what])


def typical(seconds: Sequence[float]) -> float:
    """The mean of all but the slowest."""
    return fmean(sorted(seconds)[: max(1, round(len(seconds) * (1 - TRIM)))])

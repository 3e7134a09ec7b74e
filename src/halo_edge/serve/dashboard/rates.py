"""How many tokens came in each of the last seconds, and how long after one another.

Told by the engine's thread, a few stores a token; counted when somebody asks.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np

SECONDS: Final = 180
"""How far back `since` goes."""
TOKENS: Final = 1 << 15
"""So many are remembered: 180 a second for as long."""


@dataclass(frozen=True)
class Second:
    """`second`: which, by a clock of its own. `tokens`: that came in it. `median_ms`, `p99_ms`: of
    the gaps before them; None without any."""

    second: int
    tokens: int
    median_ms: float | None
    p99_ms: float | None


class Rates:
    """One thread tells, another asks. `clock`: monotonic seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._at = np.zeros(TOKENS)
        self._gap_s = np.zeros(TOKENS)
        self._count = 0
        self._begun = int(clock())

    def token(self, since_s: float, *, first: bool) -> None:
        """One came, so long after the one before; the time to the `first` is no gap."""
        place = self._count % TOKENS
        self._at[place] = self._clock()
        self._gap_s[place] = np.nan if first else since_s
        self._count += 1

    @property
    def second(self) -> int:
        """The one under way."""
        return int(self._clock())

    def since(self, second: int) -> tuple[Second, ...]:
        """The seconds from that one on which are over, at most `SECONDS`."""
        end = self.second
        begin = max(second, self._begun, end - SECONDS)
        count = min(self._count, TOKENS)
        at, gap_s = self._at[:count].copy(), self._gap_s[:count].copy()
        recent = (at >= begin) & (at < end)
        at, gap_s = at[recent].astype(np.int64), gap_s[recent]
        found = []
        for each in range(begin, end):
            here = gap_s[at == each]
            gaps = here[~np.isnan(here)] * 1e3
            median, p99 = np.percentile(gaps, (50, 99)) if len(gaps) else (None, None)
            found.append(Second(each, len(here), _rounded(median), _rounded(p99)))
        return tuple(found)


def _rounded(milliseconds: float | None) -> float | None:
    return None if milliseconds is None else round(float(milliseconds), 2)

"""CPU time that the host of a virtual machine gave to others while something was measured.

The guest's kernel counts it: how long processors had something to run and were not allowed to
(`steal` in proc(5)). What was measured meanwhile is of a slower machine than the rest.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

MOST: Final = 0.03
"""Of a measurement's time on all processors. Beyond it, figures moved by more than machines differ
between two quiet measurements: docs/RESULTS.md."""
TRIES: Final = 3
"""How often a measurement is made, at most, to find a quiet time; a quick one once."""

_SHORTEST_S: Final = 5.0
"""Of less a few ticks would be a share to speak of."""
_STAT: Final = Path("/proc/stat")
_TICK_S: Final = 0.01  # USER_HZ, on every Linux that Python runs on
_STEAL: Final = 8  # its place in a line of /proc/stat, after the name


class StolenTime:
    """From its making on. Nothing is stolen where nobody says, or in a time too short to tell."""

    def __init__(self, stat: Path = _STAT, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock`: seconds."""
        self._stat = stat
        self._clock = clock
        self._begun_s = clock()
        self._begun_stolen_s, _ = self._read()

    @property
    def share(self) -> float:
        """Of the time since then, of all processors."""
        stolen_s, processors = self._read()
        elapsed_s = self._clock() - self._begun_s
        if not processors or elapsed_s < _SHORTEST_S:
            return 0.0
        return max(0.0, stolen_s - self._begun_stolen_s) / (elapsed_s * processors)

    def _read(self) -> tuple[float, int]:
        """Stolen so far, in seconds of all processors; how many there are."""
        try:
            lines = self._stat.read_text().splitlines()
            fields = lines[0].split()
            processors = sum(line.startswith("cpu") for line in lines) - 1
            return int(fields[_STEAL]) * _TICK_S, processors
        except (OSError, ValueError, IndexError):
            return 0.0, 0

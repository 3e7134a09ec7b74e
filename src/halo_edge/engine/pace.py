"""How many rows a step may have, so that a long prompt does not stop those who are being answered.

What a step takes is measured as steps come; it knows nothing of what they compute.
"""

from __future__ import annotations

from typing import Final

MAX_ADDED_S: Final = 0.1
"""So much longer may a step take for the prompts that it takes along. Half as much again is what
nobody should notice in a token gap; the rest is for steps that differ."""

ROW_COUNTS: Final = (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 16, 20, 24, 32, 48, 64, 96, 128)
"""Every other number of rows would want graphs of its own (`Forward`): steps that can choose have
one of these."""

_NEWEST: Final = 0.2
"""The weight of a new measurement."""


class Pace:
    """Learns what steps take: those in which only answers go on, by how many do; and what each row
    of a prompt adds. What few rows took may have been chance, so steps grow by one of `ROW_COUNTS`
    at a time."""

    def __init__(self, max_added_s: float = MAX_ADDED_S) -> None:
        self._max_added_s = max_added_s
        self._took_s: dict[int, float] = {}  # by answers; bounded, as steps are
        # Sums over the last steps with rows of prompts, in which those weigh most that had most.
        self._rows = 0.0
        self._added_s = 0.0
        self._newest = ROW_COUNTS[-1]  # rows of the last of them, of all kinds

    def took(self, decoding: int, prompts: int, step_s: float) -> None:
        """A step with so many rows of answers and of prompts took so long."""
        if prompts:
            self._newest = decoding + prompts
            self._rows += prompts - _NEWEST * self._rows
            added_s = step_s - self._expected_s(decoding)
            self._added_s += added_s - _NEWEST * self._added_s
        else:
            before_s = self._took_s.get(decoding, step_s)
            self._took_s[decoding] = before_s + _NEWEST * (step_s - before_s)

    def rows(self, decoding: int, most: int) -> int:
        """How many rows a step should have in which `decoding` (at least 1) answers go on and that
        could have `most`; always more than `decoding`, so that prompts get on, if `most` is."""
        counts = [count for count in ROW_COUNTS if decoding < count <= most]
        if not counts:
            return most
        allowed = self._max_added_s / self._row_s(decoding)
        following = next((count for count in counts if count > self._newest), counts[-1])
        longest = min(decoding + allowed, following)
        return max((count for count in counts if count <= longest), default=counts[0])

    def _row_s(self, decoding: int) -> float:
        """What each row adds. Before that was measured: no more than its part of a step, as rows
        share what has to be read."""
        row_s = self._added_s / self._rows if self._rows else self._expected_s(decoding) / decoding
        return max(row_s, 1e-6)

    def _expected_s(self, decoding: int) -> float:
        """How long a step takes in which only so many answers go on; 0 while nothing is known."""
        if decoding in self._took_s or not decoding:
            return self._took_s.get(decoding, 0.0)
        known, known_s = min(
            self._took_s.items(), key=lambda entry: abs(entry[0] - decoding), default=(0, 0.0)
        )
        return known_s * decoding / known if known else 0.0

"""How many rows a step may have, so that a long prompt does not stop those who are being answered.

What a step takes is measured by its number of rows, as steps come; it knows nothing of what they
compute.
"""

from __future__ import annotations

from typing import Final

MAX_ADDED_S: Final = 0.1
"""So much longer may a step take for the prompts that it takes along. Half as much again is what
nobody should notice in a token gap; the rest is for steps that differ."""

ROW_COUNTS: Final = (1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 16, 20, 24, 32, 48, 64, 96, 128)
"""Every other number of rows would want graphs of its own (`Forward`): steps that can choose have
one of these."""

_NEWEST: Final = 0.3
"""The weight of a new measurement."""


class Pace:
    """Learns what steps take."""

    def __init__(self, max_added_s: float = MAX_ADDED_S) -> None:
        self._max_added_s = max_added_s
        self._took_s: dict[int, float] = {}  # by rows; bounded, as steps are

    def took(self, rows: int, step_s: float) -> None:
        """A step of so many rows took so long."""
        before_s = self._took_s.get(rows, step_s)
        self._took_s[rows] = before_s + _NEWEST * (step_s - before_s)

    def expected_s(self, rows: int) -> float:
        """How long one of so many rows will take at most: no longer than one of more, and, as rows
        share what the step has to read, no longer in proportion than one of fewer. 0 while nothing
        is known."""
        bounds = (s if known >= rows else s * rows / known for known, s in self._took_s.items())
        return min(bounds, default=0.0)

    def rows(self, decoding: int, most: int) -> int:
        """How many rows a step should have in which `decoding` (at least 1) answers go on and that
        could have `most`; always more than `decoding`, so that prompts get on, if `most` is."""
        counts = [count for count in ROW_COUNTS if decoding < count <= most]
        if not counts:
            return most
        step_s = self.expected_s(decoding)
        for rows, fewer in zip(reversed(counts), [*reversed(counts[:-1]), decoding], strict=True):
            if self._added_s(rows, fewer, decoding, step_s) <= self._max_added_s:
                return rows
        return counts[0]

    def _added_s(self, rows: int, fewer: int, decoding: int, step_s: float) -> float:
        """How much longer a step of `rows` takes than one of `decoding`, which takes `step_s`: as
        much for each row more as was measured with at least `fewer`."""
        more = rows - decoding
        least_s = step_s * more / decoding
        for known, known_s in self._took_s.items():
            if known >= fewer and known > decoding:
                added_s = max(0.0, known_s - step_s)
                least_s = min(least_s, added_s * max(1.0, more / (known - decoding)))
        return least_s

"""Whose prompt gets on next: users by turns, not requests.

Knows neither cells nor steps; the engine says whose prompts got on.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from halo_edge.engine.sequence import Sequence

MAX_USERS: Final = 1024
"""Users whose turns are remembered."""


class Turns:
    """Remembers whose prompts got on, and when."""

    def __init__(self) -> None:
        self._served: dict[str, None] = {}  # users, the one served last at the end

    def order(self, running: Iterable[Sequence]) -> list[Sequence]:
        """Those with a prompt to be computed: one of each user, who was served longest ago first;
        then the second of each."""
        served = {user: turn for turn, user in enumerate(self._served)}
        turns: dict[str, int] = {}
        order = []
        for sequence in running:
            if sequence.prefilling:
                turn = turns[sequence.user] = turns.get(sequence.user, -1) + 1
                order.append(((turn, served.get(sequence.user, -1), sequence.id), sequence))
        return [sequence for _, sequence in sorted(order, key=lambda entry: entry[0])]

    def served(self, user: str) -> None:
        """A prompt of theirs got on: the others come first now."""
        self._served.pop(user, None)
        self._served[user] = None
        while len(self._served) > MAX_USERS:
            del self._served[next(iter(self._served))]

"""Who is admitted next: round robin over users, not over requests.

Knows neither cells nor steps; it is asked when there is room for another sequence.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable

from halo_edge.engine.sequence import Sequence


class WaitingLine:
    """Sequences that have not been admitted, in the order in which each user's came."""

    def __init__(self) -> None:
        self._of_user: dict[str, deque[Sequence]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._of_user.values()))

    def put(self, sequence: Sequence) -> None:
        """Behind the others of its user."""
        self._of_user.setdefault(sequence.user, deque()).append(sequence)

    def put_back(self, sequence: Sequence) -> None:
        """Before the others of its user: it had been admitted already."""
        self._of_user.setdefault(sequence.user, deque()).appendleft(sequence)

    def remove(self, sequence: Sequence) -> bool:
        """Whether it was waiting."""
        line = self._of_user.get(sequence.user)
        if line is None or sequence not in line:
            return False
        line.remove(sequence)
        if not line:
            del self._of_user[sequence.user]
        return True

    def next(self, running: Iterable[Sequence]) -> Sequence | None:
        """The first of the user who has the fewest running; of several, who has waited longest.

        It stays at the head until it is removed, however long there is no room for it: nobody who
        wants less may pass for ever. Its user gets behind users who have nothing running, but
        those come behind when they do.
        """
        count = Counter(sequence.user for sequence in running)
        heads = [line[0] for line in self._of_user.values()]
        return min(heads, key=lambda head: (count[head.user], head.id), default=None)

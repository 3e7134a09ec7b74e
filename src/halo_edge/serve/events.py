"""What happened in a session that a person may want to know of, the last so many."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Collection
from dataclasses import dataclass
from enum import Enum
from typing import Final

from halo_edge.cluster.membership import Came, Left

KEPT: Final = 100
_MAX_TEXT: Final = 500


class Kind(Enum):
    """What sort of thing happened."""

    JOINED = "joined"
    LEFT = "left"
    AWAY = "away"
    BACK = "back"
    PLAN = "plan"


@dataclass(frozen=True)
class Event:
    """`at_s`: seconds since 1970. `number`: they are counted from 1."""

    number: int
    at_s: float
    kind: Kind
    text: str


class Events:
    """Any thread may add, and ask. `clock`: seconds since 1970."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._kept: deque[Event] = deque(maxlen=KEPT)
        self._number = 0
        self._away: frozenset[str] = frozenset()
        self._lock = threading.Lock()

    def tell(self, line: str) -> None:
        """What `open_session` has to say of plans."""
        self._add(Kind.PLAN, line)

    def noticed(self, change: Came | Left) -> None:
        """A worker has come, or left."""
        if isinstance(change, Came):
            self._add(Kind.JOINED, f"{change.worker} is there")
        else:
            self._add(Kind.LEFT, f"{change.worker} has left")

    def away(self, names: Collection[str], members: Collection[str]) -> None:
        """Of the `members`, the workers in use, these are silent at present. One thread says so."""
        if names == self._away:
            return
        now, before = frozenset(names), self._away
        self._away = now
        for name in sorted(now - before):
            self._add(Kind.AWAY, f"{name} is silent; the root computes for it")
        for name in sorted((before - now) & frozenset(members)):
            self._add(Kind.BACK, f"{name} is silent no more")

    def recent(self) -> tuple[Event, ...]:
        """The newest last."""
        with self._lock:
            return tuple(self._kept)

    def _add(self, kind: Kind, text: str) -> None:
        with self._lock:
            self._number += 1
            self._kept.append(Event(self._number, self._clock(), kind, text[:_MAX_TEXT]))

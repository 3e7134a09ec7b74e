"""How work beside the rounds leaves them most of the processors: it rests after each piece.

Low priority is not enough: in a control group with a quota all threads draw on the same time, and
when that is used up the rounds stop, too. So a piece counts for as long as it would have taken with
the whole quota to itself, or as it did take, waiting for its turn, if that was longer.
"""

from __future__ import annotations

import threading
import time
from typing import Final

from halo_edge.cluster.limits import read_limits

REST: Final = 4.0
"""Times as long as a piece took, for what nobody waits for."""
SHORT_REST: Final = 2.0
"""For what makes tokens faster when it is done."""
MAX_REST_S: Final = 1.0
"""After one that took long, as one does that waits for a disk, it goes on after this."""
QUOTA_S: Final = 1.0
"""A quota may change; this is how often it is asked for."""


class Pace:
    """Of one thread's work."""

    def __init__(
        self,
        stopped: threading.Event | None = None,
        rest: float = REST,
        max_rest_s: float = MAX_REST_S,
    ) -> None:
        """`stopped` ends a rest."""
        self._stopped = stopped or threading.Event()
        self._rest = rest
        self._max_rest_s = max_rest_s
        self._quota = 1.0
        self._asked_at = -QUOTA_S

    def begin(self) -> None:
        """The first piece begins now, or the next one, for there was nothing to do before."""
        self._begun_s, self._begun_cpu_s = time.monotonic(), time.thread_time()
        if self._begun_s - self._asked_at > QUOTA_S:
            self._quota = read_limits().cpu_quota or 1.0
            self._asked_at = self._begun_s

    def rest(self) -> bool:
        """A piece of the work is done. Whether it was stopped."""
        took_s = time.monotonic() - self._begun_s
        cpu_s = time.thread_time() - self._begun_cpu_s
        rest_s = self._rest * max(took_s, cpu_s / self._quota)
        stopped = self._stopped.wait(min(rest_s, self._max_rest_s))
        self.begin()
        return stopped

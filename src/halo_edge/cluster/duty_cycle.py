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

GENTLE: Final = 1 / 25
"""The share of the time in which it works, for what nobody waits for."""
GENTLE_FREE: Final = 1 / 3
"""Of what the process does not use: so much such work may have, if that is more."""
EAGER: Final = 1 / 3
"""As `GENTLE`, for what makes tokens faster when it is done."""
FREE: Final = 0.9
"""As `GENTLE_FREE`, for that."""
MAX_REST_S: Final = 1.0
"""After a piece that took long, as one does that waits for a disk, it goes on after this."""
QUOTA_S: Final = 1.0
"""A quota may change; this is how often it is asked for."""
_NEWEST: Final = 0.5
"""The weight of a rest, for how busy this process is."""


class DutyCycle:
    """Of one thread's work."""

    def __init__(
        self,
        stopped: threading.Event | None = None,
        share: float = GENTLE,
        free: float = GENTLE_FREE,
        max_rest_s: float = MAX_REST_S,
    ) -> None:
        """`stopped` ends a rest. `share`: of the time that is worked in any case; `free`: of the
        processors' time that the process has not used while this thread rested."""
        self._stopped = stopped or threading.Event()
        self._share = share
        self._free = free
        self._max_rest_s = max_rest_s
        self._cores = 1.0
        self._busy = 1.0  # 0 ... 1: of what the process may use
        self._asked_at = -QUOTA_S

    def begin(self) -> None:
        """The first piece begins now, or the next one, for there was nothing to do before."""
        self._begun_s, self._begun_cpu_s = time.monotonic(), time.thread_time()
        if self._begun_s - self._asked_at > QUOTA_S:
            limits = read_limits()
            self._cores = limits.cpu_quota or float(len(limits.cores))
            self._asked_at = self._begun_s

    def rest(self) -> bool:
        """A piece of the work is done. Whether it was stopped."""
        now, used_s = time.monotonic(), time.process_time()
        cpu_s = time.thread_time() - self._begun_cpu_s
        took_s = max(now - self._begun_s, cpu_s / min(self._cores, 1.0))
        share = max(self._share, self._free * (1 - self._busy))
        stopped = self._stopped.wait(min(took_s * (1 / share - 1), self._max_rest_s))
        rested_s = time.monotonic() - now
        if rested_s > 0:
            busy = min(1.0, (time.process_time() - used_s) / (rested_s * self._cores))
            self._busy += _NEWEST * (busy - self._busy)
        self.begin()
        return stopped

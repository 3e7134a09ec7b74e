"""How work beside the rounds leaves them most of the processors: it rests after each piece.

Low priority is not enough: in a control group with a quota all threads draw on the same time, and
when that is used up the rounds stop, too. A piece that waits for its turn takes longer, and is
rested for longer.
"""

from __future__ import annotations

import threading
import time
from typing import Final

REST: Final = 4.0
"""Times as long as a piece took."""
MAX_REST_S: Final = 1.0
"""After one that took long, as one does that waits for a disk, it goes on after this."""


class Pace:
    """Of one thread, from its construction on."""

    def __init__(
        self, stopped: threading.Event | None = None, max_rest_s: float = MAX_REST_S
    ) -> None:
        """`stopped` ends a rest."""
        self._stopped = stopped or threading.Event()
        self._max_rest_s = max_rest_s
        self.begin()

    def begin(self) -> None:
        """A piece begins now, for there was nothing to do before."""
        self._begun_s = time.monotonic()

    def rest(self) -> bool:
        """A piece of the work is done. Whether it was stopped."""
        took_s = time.monotonic() - self._begun_s
        stopped = self._stopped.wait(min(REST * took_s, self._max_rest_s))
        self.begin()
        return stopped

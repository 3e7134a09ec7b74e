"""Waits for the end of a session's first step: what else there is to do would take processors from
it, and the first token is waited for.

What is done afterwards is whoever waits' business.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Final

# A first step that takes longer has things done beside it; and if nobody asks for one in so long,
# they are done when somebody does.
FIRST_STEP_S: Final = 10.0
IDLE_S: Final = 1.0
POLL_S: Final = 0.02


class FirstStep:
    """Any thread may interrupt the one that waits."""

    def __init__(self) -> None:
        self._interrupted = threading.Event()

    def interrupt(self) -> None:
        """Something has happened that cannot wait."""
        self._interrupted.set()

    def wait(self, begun_steps: Callable[[], int]) -> None:
        """Until the first of the steps that were begun is done, or it is interrupted."""
        began = time.monotonic()
        while (steps := begun_steps()) < 2:
            if time.monotonic() - began > (FIRST_STEP_S if steps else IDLE_S):
                return
            if self._interrupted.wait(POLL_S):
                return

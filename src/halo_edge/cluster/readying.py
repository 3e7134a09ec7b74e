"""Makes ready what stands in for workers, beside the rounds: so that the first token without a
worker takes no longer than those that follow.

What that consists of is the stand-in's business.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Final

from halo_edge.cluster.duty_cycle import DutyCycle
from halo_edge.cluster.replica_loader import lower_priority
from halo_edge.errors import HaloError

STOP_TIMEOUT_S: Final = 1.0


class Readying:
    """Goes through `steps` in a thread of the lowest priority, with rests between them."""

    def __init__(self, steps: Iterator[None]) -> None:
        self._steps = steps
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="readying", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Soon. It is waited for, within bounds: a step may read from a disk."""
        self._stopped.set()
        self._thread.join(STOP_TIMEOUT_S)

    def _run(self) -> None:
        lower_priority()
        duty = DutyCycle(self._stopped)
        duty.begin()
        with contextlib.suppress(HaloError):  # whoever stands in will be told
            for _ in self._steps:
                if duty.rest():
                    return

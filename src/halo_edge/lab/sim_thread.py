"""A device's thread in virtual time: work takes time, and there may be none.

Where each device is a machine of its own, its thread has a core to itself (`OwnCore`); processes of
one machine share its cores (`sim_cpu.py`).
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any, Protocol, TypeAlias

import simpy

from halo_edge.lab.sim_inbox import Inbox

Process: TypeAlias = Generator[simpy.Event, Any, None]
"""Something that takes virtual time."""


class Thread(Protocol):
    """A device's only thread, or another process's."""

    used_s: float
    """CPU time so far."""

    def run(self, seconds: float) -> Process:
        """So much work. One at a time."""

    def wait(
        self, inbox: Inbox, until: float | None, wake_s: float
    ) -> Generator[simpy.Event, Any, float]:
        """Nothing to do until something is in `inbox`, or it is `until`; others may have the core.
        Then so much work until it can be looked at. Returns the seconds without anything to do."""

    def stop(self) -> None:
        """As SIGSTOP does."""

    def resume(self) -> None:
        """As SIGCONT does."""


class OwnCore:
    """A thread with a core to itself."""

    def __init__(self, env: simpy.Environment) -> None:
        self._env = env
        self.used_s = 0.0
        self.rate = 1.0
        """Seconds of work that it does in a second."""
        self._ends = 0.0  # when the work at hand is done, if nobody stops it
        self._stopped: tuple[float, simpy.Event] | None = None  # since when; when it may go on
        self._owed_s = 0.0  # of the work at hand, not done while it was stopped

    def run(self, seconds: float) -> Process:
        env = self._env
        left_s = took_s = seconds / self.rate
        if self._stopped is not None:
            yield self._stopped[1]
        while left_s > 0:
            self._ends = env.now + left_s
            yield env.timeout(left_s)
            if self._stopped is not None:
                yield self._stopped[1]
            left_s, self._owed_s = self._owed_s, 0.0
        self.used_s += took_s

    def wait(
        self, inbox: Inbox, until: float | None, wake_s: float
    ) -> Generator[simpy.Event, Any, float]:
        began = self._env.now
        yield inbox.wait(until, wake_s)
        waited_s = self._env.now - began - wake_s
        self.used_s += wake_s
        if self._stopped is not None:
            yield self._stopped[1]
        return waited_s

    def stop(self) -> None:
        if self._stopped is None:
            self._stopped = (self._env.now, self._env.event())

    def resume(self) -> None:
        if self._stopped is not None:
            since, event = self._stopped
            self._owed_s += max(0.0, min(self._env.now, self._ends) - since)
            self._stopped = None
            event.succeed()

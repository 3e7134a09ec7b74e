"""What a device has been sent and not yet taken in: its socket's buffer, in virtual time."""

from __future__ import annotations

from collections import deque
from typing import Final

import simpy

# A buffer of 8 MB, what Linux makes of the 4 MB that udp.py asks for, as it counts datagrams there.
CAPACITY: Final = 3640


class Inbox:
    """Datagrams in order. At most one process waits for them."""

    def __init__(self, env: simpy.Environment, capacity: int = CAPACITY) -> None:
        self._env = env
        self._capacity = capacity
        self._datagrams: deque[bytes] = deque()
        self._waiting: _Waiting | None = None
        self._rings_at: float | None = None  # when the timer under way rings
        self.overflowed = 0
        """Datagrams for which there was no room."""

    def __len__(self) -> int:
        return len(self._datagrams)

    def put(self, datagram: bytes) -> bool:
        """False where there is no room."""
        if len(self._datagrams) >= self._capacity:
            self.overflowed += 1
            return False
        self._datagrams.append(datagram)
        self.wake()
        return True

    def take(self) -> bytes:
        return self._datagrams.popleft()

    def wake(self) -> None:
        """Let the process that waits look, though nothing may have come."""
        if self._waiting is not None:
            self._waiting.happen()
            self._waiting = None

    def wait(self, until: float | None, delay_s: float) -> simpy.Event:
        """An event `delay_s` after there is something here, or it is `until`."""
        event = _Waiting(self._env, until, delay_s)
        if self._datagrams:
            event.happen()
            return event
        self._waiting = event
        # The timer of an earlier wait serves as well: when it rings, it is set again.
        if until is not None and (self._rings_at is None or self._rings_at > until):
            self._set_timer(until)
        return event

    def _set_timer(self, at: float) -> None:
        self._rings_at = at
        timer = self._env.timeout(max(at - self._env.now, 0.0), at)
        assert timer.callbacks is not None
        timer.callbacks.append(self._ring)

    def _ring(self, timer: simpy.Event) -> None:
        if timer.value != self._rings_at:
            return  # an earlier one was set meanwhile
        self._rings_at = None
        if self._waiting is None or self._waiting.until is None:
            return
        if self._waiting.until <= self._env.now:
            self.wake()
        else:
            self._set_timer(self._waiting.until)


class _Waiting(simpy.Event):
    """Happens some time after it was told to."""

    def __init__(self, env: simpy.Environment, until: float | None, delay_s: float) -> None:
        super().__init__(env)
        self.until = until
        self._delay_s = delay_s

    def happen(self) -> None:
        self._ok = True
        self._value = None
        self.env.schedule(self, delay=self._delay_s)

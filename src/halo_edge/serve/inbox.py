"""What event loops put in for the thread that drives the engine: requests, cancellations, and when
it is to end. Everything here is said by one thread and heard by another.

It counts who waits, and knows nothing of what is computed.
"""

from __future__ import annotations

import asyncio
import math
import threading
from collections import Counter
from collections.abc import Callable

from halo_edge.errors import HaloError
from halo_edge.serve.job import Job
from halo_edge.serve.request import Busy, Request
from halo_edge.serve.stream import Mailbox, Stream


class Inbox:
    """Of one service. Event loops put in, in any thread; one thread takes out."""

    def __init__(self, max_waiting: int, clock: Callable[[], float]) -> None:
        """`max_waiting`: requests that may not yet have begun. `clock`: seconds."""
        self._max_waiting = max_waiting
        self._clock = clock
        self._wake = threading.Condition()
        self._arrived: list[Job] = []
        self._cancelled: list[Stream] = []
        self._waiting: Counter[str] = Counter()  # requests not yet begun, by user
        self._mailboxes: dict[asyncio.AbstractEventLoop, Mailbox] = {}
        self._close_by_s = math.inf

    def put(self, request: Request, retry_after_s: float) -> Stream:
        """In an event loop, which the stream then belongs to.

        Raises `Busy` (with `retry_after_s`) when too many wait, and `HaloError` after `close`.
        """
        loop = asyncio.get_running_loop()
        with self._wake:
            if self._close_by_s < math.inf:
                raise HaloError("the server is being stopped; try again when it is back")
            # Whoever has much waiting leaves room for the others (Choudhury and Hahne, 1998).
            free = self._max_waiting - self._waiting.total()
            if self._waiting[request.user] >= free:
                raise Busy(
                    f"{self._waiting.total()} requests are waiting, {self._waiting[request.user]} "
                    f"of them yours; try again later",
                    retry_after_s,
                )
            self._waiting[request.user] += 1
            mailbox = self._mailbox(loop)
            stream = Stream(request, self._cancel)
            self._arrived.append(Job(stream, mailbox, self._clock()))
            self._wake.notify()
        return stream

    def close(self, by_s: float) -> None:
        """Let nothing more in. By then, on the clock, all is to end."""
        with self._wake:
            self._close_by_s = min(self._close_by_s, by_s)
            self._wake.notify()

    @property
    def overdue(self) -> bool:
        """Whether all is to have ended."""
        with self._wake:
            return self._clock() > self._close_by_s

    @property
    def n_waiting(self) -> int:
        """Requests not yet begun."""
        with self._wake:
            return self._waiting.total()

    def begun(self, user: str) -> None:
        """One of the user's requests waits no more."""
        with self._wake:
            self._waiting[user] -= 1
            if not self._waiting[user]:
                del self._waiting[user]

    def pause(self, timeout_s: float) -> None:
        """Until something new is put in, but no longer than that."""
        with self._wake:
            self._wake.wait(timeout_s)

    def wait(self) -> bool:
        """Until there is something to take; False if there is nothing, and nothing will come."""
        with self._wake:
            while not (self._arrived or self._cancelled):
                if self._close_by_s < math.inf:
                    return False
                self._wake.wait()
            return True

    def take(self) -> tuple[list[Job], list[Stream]]:
        """The requests that have come, and the streams whose readers have left."""
        with self._wake:
            arrived, self._arrived = self._arrived, []
            cancelled, self._cancelled = self._cancelled, []
        return arrived, cancelled

    def _cancel(self, stream: Stream) -> None:
        with self._wake:
            self._cancelled.append(stream)
            self._wake.notify()

    def _mailbox(self, loop: asyncio.AbstractEventLoop) -> Mailbox:
        mailbox = self._mailboxes.get(loop)
        if mailbox is None:
            self._mailboxes = {other: m for other, m in self._mailboxes.items() if not m.closed}
            mailbox = self._mailboxes[loop] = Mailbox(loop)
        return mailbox

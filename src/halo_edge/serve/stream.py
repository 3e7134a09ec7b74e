"""An answer on its way from the engine's thread to whoever reads it in an event loop.

It knows nothing of engines; the service says what to do when the reader leaves.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from dataclasses import dataclass

from halo_edge.engine.sampling import Sampled
from halo_edge.engine.sequence import FinishReason
from halo_edge.errors import HaloError
from halo_edge.serve.request import Answered, Piece, Request


@dataclass(frozen=True)
class Delivery:
    """What is new of one answer. `ended`: nothing more comes; `error`: because of that."""

    stream: Stream
    text: str = ""
    token: Sampled | None = None
    finish: FinishReason | None = None
    ended: Answered | None = None
    error: HaloError | None = None


class Stream:
    """The pieces of one answer, as an async iterator for one reader. Leaving it as an async context
    manager cancels what has not come yet.

    A reader who is slow finds all that came meanwhile in one piece, so that nothing waits for him
    and no more is held than the answer. `ended`: once nothing more comes, what became of it.
    To be used in one event loop.
    """

    def __init__(self, request: Request, cancel: Callable[[Stream], None]) -> None:
        self.request = request
        self.ended: Answered | None = None
        self._tell_cancelled = cancel
        self._text: list[str] = []
        self._tokens: list[Sampled] = []
        self._finish: FinishReason | None = None
        self._error: HaloError | None = None
        self._over = False
        self._reader: asyncio.Future[None] | None = None

    def __aiter__(self) -> Stream:
        return self

    async def __anext__(self) -> Piece:
        """What has come since the piece before. Raises `HaloError` when the answer failed."""
        while not (self._text or self._tokens or self._over):
            if self._reader is not None:
                raise RuntimeError("a stream has one reader")
            self._reader = asyncio.get_running_loop().create_future()
            try:
                await self._reader
            finally:
                self._reader = None
        if self._text or self._tokens or self._finish is not None:
            piece = Piece("".join(self._text), tuple(self._tokens), self._finish)
            self._text, self._tokens, self._finish = [], [], None
            return piece
        if self._error is not None:
            error, self._error = self._error, None
            raise error
        raise StopAsyncIteration

    async def __aenter__(self) -> Stream:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.cancel()

    def cancel(self) -> None:
        """Nothing more is wanted. What is unread is gone, and no error either."""
        if not self._over:
            self._tell_cancelled(self)
        self._over = True
        self._text, self._tokens, self._finish, self._error = [], [], None, None
        self._wake()

    def take(self, new: Delivery) -> None:
        """Some more has come. In the event loop."""
        if new.ended is not None:
            self.ended = new.ended
        if self._over:
            return
        if new.text:
            self._text.append(new.text)
        if new.token is not None:
            self._tokens.append(new.token)
        self._finish, self._error = new.finish, new.error
        self._over = new.ended is not None
        self._wake()

    def _wake(self) -> None:
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)


class Mailbox:
    """Carries deliveries into one event loop: it is woken once for all that have come."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._lock = threading.Lock()
        self._deliveries: list[Delivery] = []

    @property
    def closed(self) -> bool:
        """Whether its event loop is: nobody reads any more."""
        return self._loop.is_closed()

    def put(self, deliveries: list[Delivery]) -> None:
        """From any thread."""
        with self._lock:
            asleep = not self._deliveries
            self._deliveries += deliveries
        if asleep and not self._loop.is_closed():
            try:
                self._loop.call_soon_threadsafe(self._open)
            except RuntimeError:  # closed meanwhile
                return

    def _open(self) -> None:
        with self._lock:
            deliveries, self._deliveries = self._deliveries, []
        for delivery in deliveries:
            delivery.stream.take(delivery)

"""What a dashboard is sent, live: a few times a second while somebody looks, and nothing otherwise.

Whoever looks causes what is reckoned, at most once for all of them in `INTERVAL_S`; there is no
task or thread that goes on by itself. Of requests it is told when tokens came, not what they say.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from halo_edge.serve.closing import Closing
from halo_edge.serve.dashboard.heat import Heat, Picture, Scale
from halo_edge.serve.dashboard.rates import SECONDS, Rates, Second
from halo_edge.serve.request import Answered, Request
from halo_edge.serve.view import ClusterView, View

INTERVAL_S: Final = 0.2
"""Between two frames."""
VIEW_S: Final = 1.0
"""Between two views in which no device has changed its state and nothing has happened."""
HEAR_S: Final = 2.0
"""Between two times that workers are asked how they are."""
MAX_LISTENERS: Final = 32
_RECENT_S: Final = 5  # seconds sent again, for those who missed frames


@dataclass(frozen=True)
class Frame:
    """`second`: the one under way, for `rates`. `view`, `heat`: None where there is nothing new.
    `scale`: of the heat map; only in the first frame that a listener gets."""

    second: int
    rates: tuple[Second, ...]
    view: ClusterView | None = None
    heat: Picture | None = None
    scale: Scale | None = None


class Feed:
    """A `Listener`: the engine's thread tells, that of the HTTP side asks. `heat`: None where there
    is no cluster. `clock`: monotonic seconds."""

    def __init__(
        self,
        view: View,
        rates: Rates,
        heat: Heat | None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._view = view
        self._rates = rates
        self._heat = heat
        self._clock = clock
        self._frame = b""
        self._due_at = self._view_at = 0.0
        self._seen: object = None
        self._hear_at = 0.0
        self._hearing: asyncio.Task[None] | None = None
        self.listeners = 0

    def token(self, request: Request, since_s: float, *, first: bool) -> None:
        """See `Listener`."""
        self._rates.token(since_s, first=first)
        self._view.look()
        if self._heat is not None and not first:  # a prompt's rows are not the token's
            self._heat.note()

    def ended(self, answered: Answered) -> None:
        """See `Listener`."""

    @property
    def full(self) -> bool:
        """Whether nobody else may listen."""
        return self.listeners >= MAX_LISTENERS

    def first(self) -> bytes:
        """What a new listener gets, as JSON."""
        heat = self._heat
        return msgspec.json.encode(
            Frame(
                self._rates.second,
                self._rates.since(self._rates.second - SECONDS),
                self._view.now(),
                scale=None if heat is None else heat.scale,
            )
        )

    def frame(self) -> bytes:
        """What all get then, as JSON; the same for all who ask within `INTERVAL_S`."""
        now = self._clock()
        if now >= self._due_at:
            self._due_at = now + INTERVAL_S
            picture = None
            if self._heat is not None:
                picture = self._heat.picture()
                self._heat.want()
            second = self._rates.second
            rates = self._rates.since(second - _RECENT_S)
            self._frame = msgspec.json.encode(Frame(second, rates, self._changed(now), picture))
        return self._frame

    async def listen(self, closing: Closing) -> AsyncIterator[bytes]:
        """Server-sent events, for as long as they are taken, and the server is not stopped."""
        self.listeners += 1
        try:
            yield _event(self.first())
            while not await _within(INTERVAL_S, closing.wait()):
                self._hear()
                yield _event(self.frame())
        finally:
            self.listeners -= 1

    def _changed(self, now: float) -> ClusterView | None:
        view = self._view.now()
        seen = (
            [(device.number, device.state) for device in view.devices],
            view.plan,
            view.events[-1].number if view.events else 0,
        )
        if seen == self._seen and now < self._view_at:
            return None
        self._seen, self._view_at = seen, now + VIEW_S
        return view

    def _hear(self) -> None:
        """In another thread, as it may take long; one at a time."""
        now = self._clock()
        if now >= self._hear_at and (self._hearing is None or self._hearing.done()):
            self._hear_at = now + HEAR_S
            self._hearing = asyncio.create_task(asyncio.to_thread(self._view.hear))


async def _within(seconds: float, end: Coroutine[Any, Any, None]) -> bool:
    """Whether it came; waits for no longer."""
    try:
        await asyncio.wait_for(end, seconds)
    except TimeoutError:
        return False
    return True


def _event(data: bytes) -> bytes:
    return b"data: " + data + b"\n\n"

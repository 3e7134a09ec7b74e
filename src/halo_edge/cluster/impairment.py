"""A bad link without privileges: datagrams are dropped and delayed on their way through the root.

It stands in for the network when a laboratory with real packets is not to be had, and is seeded,
so that a run can be repeated.
"""

from __future__ import annotations

import heapq
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Final

from halo_edge.cluster.links import RootLink
from halo_edge.errors import HaloError
from halo_edge.sync.ids import DeviceId

# More would be a wrong delay rather than a bad link; a real queue drops, too.
MAX_QUEUED: Final = 100_000


@dataclass(frozen=True)
class ImpairmentOptions:
    """`loss`: probability that a datagram is dropped, independently, in each direction;
    `delay_ms`: added one-way; `jitter_ms`: added uniformly on top, so that datagrams overtake."""

    loss: float = 0.0
    delay_ms: float = 0.0
    jitter_ms: float = 0.0
    seed: int = 0

    @classmethod
    def parse(cls, text: str) -> ImpairmentOptions:
        """From `loss=0.05,delay_ms=1,seed=7`. Raises `HaloError`."""
        known = {field.name: float for field in fields(cls)} | {"seed": int}
        values: dict[str, float] = {}
        for part in text.split(","):
            name, _, value = part.strip().partition("=")
            if name not in known:
                raise HaloError(f"--impair: unknown {name!r}; use {', '.join(known)}")
            try:
                values[name] = known[name](value)
            except ValueError:
                raise HaloError(f"--impair: {name} needs a number, not {value!r}") from None
        options = cls(**values)  # type: ignore[arg-type]
        if not 0 <= options.loss < 1:
            raise HaloError("--impair: loss is a probability, 0 or more and below 1")
        if not (0 <= options.delay_ms <= 10_000 and 0 <= options.jitter_ms <= 10_000):
            raise HaloError("--impair: delays are between 0 and 10000 ms")
        return options


class ImpairedDirection:
    """One direction: datagrams go in with `offer`, and come out of `due` in time."""

    def __init__(self, options: ImpairmentOptions, seed: int) -> None:
        self._random = random.Random(seed)
        self._options = options
        self._queue: list[tuple[float, int, tuple[object, bytes]]] = []
        self._offered = 0
        self.dropped = 0

    def offer(self, peer: object, datagram: bytes | memoryview, now: float) -> None:
        self._offered += 1
        options = self._options
        if self._random.random() < options.loss or len(self._queue) >= MAX_QUEUED:
            self.dropped += 1
            return
        delay_s = (options.delay_ms + self._random.random() * options.jitter_ms) / 1e3
        entry = (now + delay_s, self._offered, (peer, bytes(datagram)))
        heapq.heappush(self._queue, entry)

    def due(self, now: float) -> tuple[object, bytes] | None:
        """The next (peer, datagram) whose time has come."""
        if self._queue and self._queue[0][0] <= now:
            return heapq.heappop(self._queue)[2]
        return None

    @property
    def next_due(self) -> float | None:
        return self._queue[0][0] if self._queue else None


class ImpairedLink:
    """A root's end that drops and delays what passes, in both directions."""

    def __init__(self, link: RootLink, options: ImpairmentOptions) -> None:
        self._link = link
        self._out = ImpairedDirection(options, 2 * options.seed)
        self._in = ImpairedDirection(options, 2 * options.seed + 1)

    def send(self, destinations: Sequence[DeviceId], datagram: bytes | memoryview) -> None:
        now = time.monotonic()
        for device in destinations:
            self._out.offer(device, datagram, now)
        self._forward(now)

    def receive(self) -> memoryview | None:
        now = time.monotonic()
        self._forward(now)
        while (datagram := self._link.receive()) is not None:
            self._in.offer(None, datagram, now)
        arrived = self._in.due(now)
        return None if arrived is None else memoryview(arrived[1])

    def wait(self, timeout_s: float) -> None:
        now = time.monotonic()
        self._forward(now)
        for due in (self._in.next_due, self._out.next_due):
            if due is not None:
                timeout_s = min(timeout_s, due - now)
        if timeout_s > 0:
            self._link.wait(timeout_s)

    def close(self) -> None:
        self._link.close()

    def _forward(self, now: float) -> None:
        while (due := self._out.due(now)) is not None:
            device, datagram = due
            self._link.send((device,), datagram)  # type: ignore[arg-type]

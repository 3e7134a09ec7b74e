"""A bad link without privileges: datagrams are lost and delayed on their way through the root.

It stands in for the lab's real packets where those are not to be had: the root's own link is bad,
each way. TCP has no datagrams that could be lost here; that takes real packets.
"""

from __future__ import annotations

import heapq
import time
from collections.abc import Sequence
from dataclasses import fields
from typing import Any, Final

from halo_edge.cluster.links import RootLink
from halo_edge.errors import HaloError
from halo_edge.lab.link import Burst, Link, LinkSettings
from halo_edge.sync.ids import DeviceId

# More would be a wrong delay rather than a bad link; a real queue drops, too.
MAX_QUEUED: Final = 100_000
_NUMBERS: Final = tuple(f.name for f in fields(LinkSettings) if f.name not in ("burst", "cut"))


def parse_impairment(text: str) -> tuple[LinkSettings, int]:
    """From `loss=0.05,delay_ms=1,burst=380/20,seed=7`: the settings and the seed.

    `burst=GOOD_MS/BAD_MS`. Raises `HaloError`.
    """
    values: dict[str, Any] = {}
    seed = 0
    for part in text.split(","):
        name, _, value = part.strip().partition("=")
        try:
            if name == "seed":
                seed = int(value)
            elif name == "burst":
                good_ms, _, bad_ms = value.partition("/")
                values[name] = Burst(float(good_ms), float(bad_ms))
            elif name in _NUMBERS:
                values[name] = float(value)
            else:
                known = ", ".join((*_NUMBERS, "burst", "seed"))
                raise HaloError(f"--impair: unknown {name!r}; use {known}")
        except ValueError:
            form = "GOOD_MS/BAD_MS, e.g. 380/20" if name == "burst" else "a number"
            raise HaloError(f"--impair: {name} needs {form}, not {value!r}") from None
    try:
        return LinkSettings(**values), seed
    except ValueError as error:
        raise HaloError(f"--impair: {error}") from None


class ImpairedDirection:
    """One direction: datagrams go in with `offer`, and come out of `due` in time."""

    def __init__(self, settings: LinkSettings, seed: str) -> None:
        self._link = Link(settings, seed)
        self._queue: list[tuple[float, int, object, bytes]] = []
        self._offered = 0
        self.overflowed = 0

    def offer(self, peer: object, datagram: bytes | memoryview, now: float) -> None:
        for at_s, damaged in self._link.send(len(datagram), now):
            if len(self._queue) >= MAX_QUEUED:
                self.overflowed += 1
                return
            data = bytes(datagram)
            if damaged >= 0:
                flipped = bytearray(data)
                flipped[damaged // 8] ^= 1 << damaged % 8
                data = bytes(flipped)
            self._offered += 1
            heapq.heappush(self._queue, (at_s, self._offered, peer, data))

    def due(self, now: float) -> tuple[object, bytes] | None:
        """The next (peer, datagram) whose time has come."""
        if self._queue and self._queue[0][0] <= now:
            return heapq.heappop(self._queue)[2:]
        return None

    @property
    def next_due(self) -> float | None:
        return self._queue[0][0] if self._queue else None


class ImpairedLink:
    """A root's end whose link is bad, in both directions."""

    def __init__(self, link: RootLink, settings: LinkSettings, seed: int) -> None:
        self._link = link
        self._out = ImpairedDirection(settings, f"{seed}/up")
        self._in = ImpairedDirection(settings, f"{seed}/down")

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

"""What the rounds need of a network: the root's and a worker's end of a link.

A link carries whole datagrams and promises nothing else; `udp.py`, `tcp.py` implement both ends,
and `ImpairedLink` makes the root's end worse.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Protocol

from halo_edge.cluster.impairment import ImpairedDirection, ImpairmentOptions
from halo_edge.sync.ids import DeviceId


class RootLink(Protocol):
    """The root's end: one object for all workers. Sends never block for long, receives never."""

    def send(self, destinations: Sequence[DeviceId], datagram: bytes | memoryview) -> None:
        """Send one datagram to each. What the network refuses is lost."""

    def receive(self) -> memoryview | None:
        """The next datagram, valid until the next call, or None if there is none now."""

    def wait(self, timeout_s: float) -> None:
        """Return when something can be received, or after `timeout_s`."""

    def close(self) -> None: ...


class WorkerLink(Protocol):
    """A worker's end: the only peer is the root."""

    def fileno(self) -> int:
        """Becomes readable when something can be received."""

    def send(self, datagram: bytes | memoryview) -> None: ...

    def receive(self) -> memoryview | None:
        """As `RootLink.receive`."""

    def close(self) -> None: ...


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

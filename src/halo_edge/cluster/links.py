"""What the rounds need of a network: the root's and a worker's end of a link.

A link carries whole datagrams and promises nothing else; `udp.py` and `tcp.py` implement both ends.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

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

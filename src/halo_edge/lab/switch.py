"""An Ethernet switch whose cables are bad: a frame passes its sender's link up, then its receiver's
link down.

Sans-IO: frames and the time come in, frames and the time of the next one come out.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from halo_edge.lab.link import Link

HEADER_BYTES: Final = 14  # Ethernet's; damage spares it, as a damaged address would be loss
MAX_QUEUED_BYTES: Final = 64 << 20
# What Python needs to keep a frame, beside its bytes.
KEEPING_BYTES: Final = 256
MULTICAST_BIT: Final = 1
_AT_SWITCH: Final = -1


@dataclass(frozen=True)
class Port:
    """One device: its MAC address (6 bytes) and its link."""

    mac: bytes
    up: Link
    down: Link


class Switch:
    """Ports are named by their index."""

    def __init__(self, ports: Sequence[Port]) -> None:
        self._ports = list(ports)
        self._by_mac = {port.mac: i for i, port in enumerate(ports)}
        # (time, serial number, port to leave by or _AT_SWITCH, port it came by, frame)
        self._events: list[tuple[float, int, int, int, bytes]] = []
        self._serial = 0
        self._queued_bytes = 0
        self.overflowed = 0
        """Frames for which there was no memory."""
        self.unknown = 0
        """Frames to an address that no device has."""

    def frame(self, port: int, frame: bytes, now: float) -> None:
        """A frame that device `port` sends at `now`."""
        self._pass(self._ports[port].up, frame, now, _AT_SWITCH, port)

    def due(self, now: float) -> tuple[float, int, bytes] | None:
        """The next frame to hand over by `now`: when it was due, to which port, and its bytes."""
        events = self._events
        while events and events[0][0] <= now:
            at, _, port, source, frame = heapq.heappop(events)
            self._queued_bytes -= len(frame) + KEEPING_BYTES
            if port != _AT_SWITCH:
                return at, port, frame
            for receiver in self._receivers(source, frame):
                self._pass(self._ports[receiver].down, frame, at, receiver, source)
        return None

    @property
    def next_due(self) -> float | None:
        """When to call `due` again."""
        return self._events[0][0] if self._events else None

    def _receivers(self, source: int, frame: bytes) -> Sequence[int]:
        if frame[0] & MULTICAST_BIT:
            return [port for port in range(len(self._ports)) if port != source]
        port = self._by_mac.get(frame[:6])
        if port is None:
            self.unknown += 1
            return ()
        return (port,)

    def _pass(self, link: Link, frame: bytes, now: float, port: int, source: int) -> None:
        for at, damaged in link.send(len(frame), now):
            if self._queued_bytes >= MAX_QUEUED_BYTES:
                self.overflowed += 1
                return
            passed = frame if damaged < 0 else _damage(frame, damaged)
            self._serial += 1
            self._queued_bytes += len(frame) + KEEPING_BYTES
            heapq.heappush(self._events, (at, self._serial, port, source, passed))


def _damage(frame: bytes, bit: int) -> bytes:
    bit = max(bit, 8 * HEADER_BYTES)
    damaged = bytearray(frame)
    if bit < 8 * len(damaged):
        damaged[bit // 8] ^= 1 << bit % 8
    return bytes(damaged)

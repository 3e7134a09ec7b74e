"""What one says to the forwarder while it runs, over a Unix socket, and what it answers."""

from __future__ import annotations

import contextlib
import socket
from pathlib import Path
from typing import Final

import msgspec

from halo_edge.errors import HaloError
from halo_edge.lab.link import LinkCounters, LinkSettings

TIMEOUT_S: Final = 5.0
# Room for the status of as many devices as a lab may have.
MAX_MESSAGE_BYTES: Final = 1 << 20


class SetLink(msgspec.Struct, tag=True, frozen=True, forbid_unknown_fields=True):
    """Give a device's link other settings."""

    device: str
    up: LinkSettings
    down: LinkSettings


class Ask(msgspec.Struct, tag=True, frozen=True, forbid_unknown_fields=True):
    """Only the status."""


class Failed(msgspec.Struct, tag=True, frozen=True):
    error: str


class DeviceStatus(msgspec.Struct, frozen=True):
    """A device's link: its settings, and what has passed it."""

    up: LinkSettings
    down: LinkSettings
    up_counters: LinkCounters
    down_counters: LinkCounters


class Status(msgspec.Struct, tag=True, frozen=True, kw_only=True):
    """The forwarder since its start.

    `frames`: handed over; `late`: of these, more than `LATE_S` after they were due; `late_s`: how
    late all were in total; `behind_s`: the time in which frames were late, or a device's frames
    kept coming for longer than that before all were taken in; `cpu_s`: the CPU time that it used,
    and `busy`: the share of a core; `overflowed`: frames it had no memory for.
    """

    devices: dict[str, DeviceStatus]
    frames: int
    late: int
    late_s: float = 0.0
    worst_late_s: float
    behind_s: float = 0.0
    cpu_s: float = 0.0
    busy: float
    overflowed: int


Request = SetLink | Ask
Reply = Status | Failed


class ForwarderClient:
    """A connection to the forwarder whose socket is at `path`. Raises `HaloError`, as all do."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket.settimeout(TIMEOUT_S)
        try:
            self._socket.connect(str(path))
        except OSError:
            self._socket.close()
            raise HaloError("the lab's links are not there; is the lab up?") from None

    def ask(self, request: Request) -> Status:
        try:
            self._socket.send(msgspec.json.encode(request))
            answer = self._socket.recv(MAX_MESSAGE_BYTES)
            reply: Reply = msgspec.json.decode(answer, type=Reply)
        except (OSError, msgspec.DecodeError):
            self.close()  # a late answer would be taken for that to the next request
            raise HaloError("the lab's links have ended; `halo lab down` cleans up") from None
        if isinstance(reply, Failed):
            raise HaloError(f"the lab's links refused: {reply.error}")
        return reply

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._socket.close()

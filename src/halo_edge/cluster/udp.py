"""Rounds over UDP: one socket at the root for all workers, one connected socket at each worker."""

from __future__ import annotations

import ctypes
import select
import socket
import struct
from collections.abc import Mapping, Sequence
from typing import Final

from halo_edge.cluster.addresses import cannot_bind
from halo_edge.errors import HaloError
from halo_edge.sync.ids import DeviceId

# Payload of a chunk. With our and UDP's headers it stays below 1280 bytes, which IPv6 guarantees
# and every Wi-Fi carries in one frame.
MAX_PAYLOAD: Final = 1200
# Asked for; the kernel grants what it may (net.core.rmem_max).
SOCKET_BUFFER_BYTES: Final = 4 << 20
# What Linux charges a receive buffer for a datagram of ours (a 2 KB data block and its header).
CHARGE_PER_DATAGRAM: Final = 2304
# A full window is sent at once; more than this would overrun the queue of a slow radio.
MAX_WINDOW: Final = 64
MIN_WINDOW: Final = 4
MAX_DATAGRAM: Final = 65536


def bind(address: str, port: int) -> socket.socket:
    """A UDP socket with large buffers. Raises `HaloError`, e.g. where the port is taken."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    try:
        sock.bind((address, port))
    except OSError as error:
        sock.close()
        raise cannot_bind("UDP", address, port, error) from None
    for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
        sock.setsockopt(socket.SOL_SOCKET, option, SOCKET_BUFFER_BYTES)
    sock.setblocking(False)
    return sock


def window(sock: socket.socket, n_senders: int) -> int:
    """Chunks that each of `n_senders` may have under way to `sock` without overrunning it."""
    room = sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) // CHARGE_PER_DATAGRAM
    return max(MIN_WINDOW, min(MAX_WINDOW, room // max(n_senders, 1) // 2))


class UdpRootLink:
    """`addresses`: where each worker receives."""

    def __init__(self, sock: socket.socket, addresses: Mapping[DeviceId, tuple[str, int]]) -> None:
        self._socket = sock
        self._addresses = dict(addresses)
        self._buffer = bytearray(MAX_DATAGRAM)
        self._view = memoryview(self._buffer)

    def send(self, destinations: Sequence[DeviceId], datagram: bytes | memoryview) -> None:
        for device in destinations:
            try:  # noqa: SIM105 - the hot path: `suppress` is Python code
                self._socket.sendto(datagram, self._addresses[device])
            except OSError:  # a full send buffer or no way there loses it, as the network may
                pass

    def receive(self) -> memoryview | None:
        try:
            return self._view[: self._socket.recv_into(self._buffer)]
        except OSError:  # nothing there, or an ICMP error of an earlier send
            return None

    def reach(self, device: DeviceId, address: tuple[str, int]) -> None:
        """From now on the worker receives there. Any thread may say so."""
        self._addresses[device] = address

    def reaches(self, local_address: str) -> bool:
        """Whether what comes in at that address of this machine is received."""
        return self._socket.getsockname()[0] in ("0.0.0.0", local_address)

    def wait(self, timeout_s: float) -> None:
        select.select((self._socket,), (), (), timeout_s)

    def close(self) -> None:
        self._socket.close()


class UdpWorkerLink:
    """Connected to the root, so that the kernel drops what comes from elsewhere.

    Raises `HaloError` where there is no way to it.
    """

    def __init__(self, sock: socket.socket, root: tuple[str, int]) -> None:
        self._socket = sock
        self._bound: tuple[str, int] = sock.getsockname()
        try:
            self._socket.connect(root)
        except OSError as error:
            raise HaloError(f"no way to the root at {root[0]} ({error.strerror})") from None
        self._buffer = bytearray(MAX_DATAGRAM)
        self._view = memoryview(self._buffer)

    def fileno(self) -> int:
        return self._socket.fileno()

    def send(self, datagram: bytes | memoryview) -> None:
        try:  # noqa: SIM105 - as above
            self._socket.send(datagram)
        except OSError:  # lost, as the network may
            pass

    def receive(self) -> memoryview | None:
        try:
            return self._view[: self._socket.recv_into(self._buffer)]
        except OSError:
            return None

    def close(self) -> None:
        """Disconnect; the socket is bound as before, for the next session.

        Python cannot say AF_UNSPEC. Connecting elsewhere would not do: the first connection also
        chose the one local address at which the socket receives. A port that the kernel chose
        is given up by disconnecting, and taken again.
        """
        nowhere = struct.pack("H14x", socket.AF_UNSPEC)
        ctypes.CDLL(None).connect(self._socket.fileno(), nowhere, len(nowhere))
        if self._socket.getsockname() != self._bound:
            self._socket.bind(self._bound)

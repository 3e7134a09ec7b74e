"""Rounds over TCP: the same datagrams, each behind its length (u32, network order), in one stream
a worker.

This is the strict baseline that UDP is compared with: loss is TCP's to repair, and one lost
segment holds up all that is behind it.
"""

from __future__ import annotations

import select
import socket
import struct
from collections.abc import Mapping, Sequence
from typing import Final

from halo_edge.cluster.addresses import cannot_bind
from halo_edge.errors import HaloError
from halo_edge.sync.ids import DeviceId

MAX_PAYLOAD: Final = 32768  # a whole vector of any model known; no need to cut it up for TCP
MAX_FRAME: Final = 65536
CONNECT_TIMEOUT_S: Final = 10.0
# A send blocks when the peer does not read. Nobody computes for so long.
SEND_TIMEOUT_S: Final = 60.0
MAX_CONNECTIONS: Final = 8

_LENGTH: Final = struct.Struct("!I")


class FrameReader:
    """Cuts one stream into frames. `read` never blocks."""

    def __init__(self, sock: socket.socket) -> None:
        self.socket = sock
        self._buffer = bytearray(4 * MAX_FRAME)
        self._view = memoryview(self._buffer)
        self._start = 0
        self._stop = 0
        self.closed = False

    def read(self) -> memoryview | None:
        """The next frame, valid until the next call, or None. A broken stream is `closed`."""
        frame = self._next_frame()
        if frame is None and not self.closed:
            self._fill()
            frame = self._next_frame()
        return frame

    def _next_frame(self) -> memoryview | None:
        if self._stop - self._start < _LENGTH.size:
            return None
        (length,) = _LENGTH.unpack_from(self._buffer, self._start)
        if length > MAX_FRAME:  # not one of us
            self.closed = True
            return None
        end = self._start + _LENGTH.size + length
        if end > self._stop:
            return None
        frame = self._view[self._start + _LENGTH.size : end]
        self._start = end
        return frame

    def _fill(self) -> None:
        if self._start:
            self._buffer[: self._stop - self._start] = self._buffer[self._start : self._stop]
            self._stop -= self._start
            self._start = 0
        try:
            n = self.socket.recv_into(self._view[self._stop :])
        except BlockingIOError:
            return
        except OSError:
            n = 0
        self._stop += n
        self.closed = n == 0


def _send_frame(to: FrameReader, datagram: bytes | memoryview) -> None:
    """Send all of it, however long the peer takes to read (up to `SEND_TIMEOUT_S`).

    A stream that breaks is `closed`, as perhaps half a frame is out; the rounds notice that the
    peer is silent.
    """
    rest = memoryview(_LENGTH.pack(len(datagram)) + datagram)
    while rest and not to.closed:
        try:
            rest = rest[to.socket.send(rest) :]
        except BlockingIOError:
            _, writable, _ = select.select((), (to.socket,), (), SEND_TIMEOUT_S)
            to.closed = not writable
        except OSError:
            to.closed = True


def _prepare(sock: socket.socket) -> socket.socket:
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setblocking(False)
    return sock


class TcpRootLink:
    """Connects to every worker. Raises `HaloError` where one cannot be reached."""

    def __init__(self, addresses: Mapping[DeviceId, tuple[str, int]]) -> None:
        self._readers: dict[DeviceId, FrameReader] = {}
        for device, address in addresses.items():
            try:
                sock = socket.create_connection(address, CONNECT_TIMEOUT_S)
            except OSError as error:
                self.close()
                raise HaloError(
                    f"cannot connect to the worker at {address[0]}:{address[1]} over TCP "
                    f"({error}); is its port open?"
                ) from None
            self._readers[device] = FrameReader(_prepare(sock))

    def send(self, destinations: Sequence[DeviceId], datagram: bytes | memoryview) -> None:
        for device in destinations:
            _send_frame(self._readers[device], datagram)

    def receive(self) -> memoryview | None:
        for reader in self._readers.values():
            frame = reader.read()
            if frame is not None:
                return frame
        return None

    def wait(self, timeout_s: float) -> None:
        open_sockets = [r.socket for r in self._readers.values() if not r.closed]
        select.select(open_sockets, (), (), timeout_s)

    def close(self) -> None:
        for reader in self._readers.values():
            reader.socket.close()


def listen(address: str, port: int) -> socket.socket:
    """Raises `HaloError`, e.g. where the port is taken."""
    try:
        sock = socket.create_server((address, port), backlog=MAX_CONNECTIONS)
    except OSError as error:
        raise cannot_bind("TCP", address, port, error) from None
    sock.setblocking(False)
    return sock


class TcpWorkerLink:
    """Answers on whichever connection last brought a frame.

    Anyone may connect, but only sealed datagrams mean anything to the rounds, and what the root
    sends last decides where the answer goes.
    """

    def __init__(self, listener: socket.socket, root_address: str) -> None:
        self._listener = listener
        self._root_address = root_address
        self._readers: list[FrameReader] = []
        self._current: FrameReader | None = None
        self._poll = select.epoll()
        self._poll.register(listener, select.EPOLLIN)

    def fileno(self) -> int:
        return self._poll.fileno()

    def send(self, datagram: bytes | memoryview) -> None:
        if self._current is not None:
            _send_frame(self._current, datagram)

    def receive(self) -> memoryview | None:
        for reader in self._readers:
            frame = reader.read()
            if frame is not None:
                self._current = reader
                return frame
        self._drop_closed()
        self._accept()
        return None

    def close(self) -> None:
        for reader in self._readers:
            reader.socket.close()
        self._poll.close()

    def _accept(self) -> None:
        try:
            sock, (address, _) = self._listener.accept()
        except OSError:
            return
        if address != self._root_address or len(self._readers) >= MAX_CONNECTIONS:
            sock.close()
            return
        self._poll.register(sock, select.EPOLLIN)
        self._readers.append(FrameReader(_prepare(sock)))

    def _drop_closed(self) -> None:
        for reader in [r for r in self._readers if r.closed]:
            self._poll.unregister(reader.socket)
            reader.socket.close()
            self._readers.remove(reader)
            if self._current is reader:
                self._current = None

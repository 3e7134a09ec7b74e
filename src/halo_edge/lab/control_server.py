"""The serving end of a lab's control socket. What the requests mean, it does not know."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Final

from halo_edge.lab.forwarder_control import MAX_MESSAGE_BYTES

MAX_CLIENTS: Final = 16


class ControlServer:
    """A Unix socket at `path` and its clients, for somebody's select loop. It never blocks."""

    def __init__(self, path: Path) -> None:
        """Raises OSError."""
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket.bind(str(path))
        self._socket.listen()
        self._socket.setblocking(False)
        path.chmod(0o600)
        self._clients: dict[int, socket.socket] = {}

    @property
    def sources(self) -> list[int]:
        """The file descriptors to wait for."""
        return [self._socket.fileno(), *self._clients]

    def serve(self, source: int, handle: Callable[[bytes], bytes]) -> None:
        """Do what one of `sources` is ready for: let a client in, or answer its request."""
        if source not in self._clients:
            self._accept()
        elif not _answer(self._clients[source], handle):
            self._clients.pop(source).close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            client, _ = self._socket.accept()
            if len(self._clients) >= MAX_CLIENTS:
                client.close()
                return
            client.setblocking(False)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, MAX_MESSAGE_BYTES)
            self._clients[client.fileno()] = client


def _answer(client: socket.socket, handle: Callable[[bytes], bytes]) -> bool:
    """Whether the client is still there."""
    try:
        message = client.recv(MAX_MESSAGE_BYTES)
        if message:
            client.send(handle(message))
    except BlockingIOError:  # it asks without reading the answers: it misses this one
        return True
    except OSError:
        return False
    return bool(message)

"""The process side of serving: a listening socket, signals, and an orderly end.

On SIGTERM or SIGINT nothing new is taken; answers under way go on for `DRAIN_S` and then fail; on a
second signal they fail at once.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import socket
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any, Final

import uvicorn

from halo_edge.errors import HaloError
from halo_edge.serve.closing import Closing
from halo_edge.serve.service import Service

DRAIN_S: Final = 10.0
_MARGIN_S: Final = 2.0
_BACKLOG: Final = 512
_KEEP_ALIVE_S: Final = 65  # longer than usual proxies keep theirs
_MAX_CONNECTIONS: Final = 1024


def bound(host: str, port: int) -> socket.socket:
    """A socket bound there; port 0: any. Raises `HaloError` where there can be none."""
    try:
        family, kind, _, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (socket.gaierror, UnicodeError):
        raise HaloError(f"--host {host}: no such address; give one of this machine's") from None
    sock = socket.socket(family, kind)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
    except OSError as error:
        sock.close()
        raise _cannot_bind(host, port, error) from None
    return sock


def listen(sock: socket.socket) -> None:
    """Not before there is somebody to answer; from now on who connects is waited for. Raises
    `HaloError` where it cannot be."""
    try:
        sock.listen(_BACKLOG)
    except OSError as error:  # as another one was started meanwhile
        host, port = sock.getsockname()[:2]
        raise _cannot_bind(host, port, error) from None


def url_of(sock: socket.socket) -> str:
    host, port = sock.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def serve(app: Any, service: Service, sock: socket.socket, closing: Closing) -> None:
    """Answer on `sock` until a signal comes. The service is closed at the end."""
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        lifespan="off",
        server_header=False,
        proxy_headers=False,
        ws="none",
        backlog=_BACKLOG,
        limit_concurrency=_MAX_CONNECTIONS,
        timeout_keep_alive=_KEEP_ALIVE_S,
        timeout_graceful_shutdown=int(DRAIN_S + _MARGIN_S),
    )
    server = _Server(config, service, closing)
    try:
        server.run(sockets=[sock])
    finally:
        service.close(0)


class _Server(uvicorn.Server):
    """uvicorn's, which would pass the signal on when it has ended."""

    def __init__(self, config: uvicorn.Config, service: Service, closing: Closing) -> None:
        super().__init__(config)
        self._service = service
        self._closing = closing

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        before = {
            number: signal.signal(number, self.handle_exit)
            for number in (signal.SIGINT, signal.SIGTERM)
        }
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self.should_exit:
            self.force_exit = True
            return
        self.should_exit = True
        self._closing.begin()
        # Not here: it waits for answers that this loop sends.
        close = threading.Thread(target=self._service.close, args=(DRAIN_S,), daemon=True)
        close.start()


def _cannot_bind(host: str, port: int, error: OSError) -> HaloError:
    where = f"{host}:{port}"
    if error.errno == errno.EADDRINUSE:
        return HaloError(f"port taken: somebody listens on {where}; give another --port")
    if error.errno in (errno.EACCES, errno.EPERM):
        return HaloError(f"cannot listen on {where}: not allowed; give a --port above 1023")
    if error.errno == errno.EADDRNOTAVAIL:
        return HaloError(f"--host {host} is no address of this machine; 0.0.0.0 means all of them")
    return HaloError(f"cannot listen on {where}: {os.strerror(error.errno or 0)}")

"""Clients that go away at random times, over real connections: nothing of them stays."""

from __future__ import annotations

import asyncio
import json
import random
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from halo_edge.serve.request import Answered, Request

DEPARTURES = 500
CLIENTS = 16
SEED = 11
DEADLINE_S = 60.0
LONGEST_S = 0.4  # in which some have been answered, and most have not


class Server:
    """uvicorn in a thread, as `halo serve` has it, on any free port."""

    def __init__(self, app: Any) -> None:
        self._sock = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.address = self._sock.getsockname()
        config = uvicorn.Config(app, log_config=None, lifespan="off", ws="none")
        self._server = uvicorn.Server(config)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), daemon=True)
        self._thread.start()

    async def _run(self) -> None:
        self._loop = asyncio.get_running_loop()
        await self._server._serve([self._sock])  # `serve` wants signals, which threads do not get

    def tasks(self) -> int:
        """Of the event loop."""
        assert self._loop is not None
        return asyncio.run_coroutine_threadsafe(self._count(), self._loop).result(DEADLINE_S)

    @staticmethod
    async def _count() -> int:
        return len(asyncio.all_tasks()) - 1  # but this one

    @property
    def connections(self) -> int:
        return len(self._server.server_state.connections)

    def close(self) -> None:
        self._server.should_exit = True
        self._thread.join(DEADLINE_S)
        assert not self._thread.is_alive()


class Endings:
    """A `Listener`: how many sequences were computed to their end, and not."""

    def __init__(self) -> None:
        self.finished = self.cancelled = 0

    def refused(self, request: Request) -> None: ...

    def token(self, request: Request, since_s: float, *, first: bool) -> None: ...

    def ended(self, answered: Answered) -> None:
        assert not answered.error
        self.finished += answered.finish is not None
        self.cancelled += answered.finish is None


@pytest.fixture
def endings() -> Endings:
    return Endings()


@pytest.fixture
def own_api(api: Any, tiny_model: Path, endings: Endings) -> Iterator[Any]:
    with ExitStack() as stack:
        yield type(api)(tiny_model, stack, listeners=[endings])


@pytest.fixture
def server(own_api: Any) -> Iterator[Server]:
    server = Server(own_api.app)
    yield server
    server.close()


def until(condition: Callable[[], bool]) -> bool:
    """Whether it comes true in time."""
    deadline, pause = time.monotonic() + DEADLINE_S, threading.Event()
    while not condition():
        if time.monotonic() > deadline:
            return False
        pause.wait(0.02)
    return True


def depart(address: tuple[str, int], seed: int) -> bytes:
    """Ask, go away some time later; what came until then."""
    rng = random.Random(seed)
    chat, stream, n = (rng.random() < 0.5 for _ in range(3))
    body: dict[str, Any] = {"max_tokens": 100, "temperature": 1, "stream": stream, "n": 1 + n}
    text = "a word or two " * rng.randrange(1, 6)
    body |= {"messages": [{"role": "user", "content": text}]} if chat else {"prompt": text}
    data = json.dumps(body).encode()
    path = "/v1/chat/completions" if chat else "/v1/completions"
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    request = f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data
    if rng.random() < 0.1:
        request = request[: rng.randrange(len(request))]
    came = b""
    with socket.create_connection(address, timeout=DEADLINE_S) as sock:
        sock.sendall(request)
        leave = time.monotonic() + rng.uniform(0, LONGEST_S)
        while (left_s := leave - time.monotonic()) > 0:
            sock.settimeout(left_s)
            try:
                new = sock.recv(65536)
            except TimeoutError:
                break
            came += new
            if not new:
                break
        if rng.random() < 0.3:  # a reset, not an end
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    return came


def finishes(came: bytes) -> int:
    """Of so many answers the end has come."""
    return len(re.findall(b'"finish_reason":"', came))


def test_who_goes_away_leaves_nothing(own_api: Any, endings: Endings, server: Server) -> None:
    assert until(lambda: server._loop is not None)
    before = server.tasks()
    with ThreadPoolExecutor(CLIENTS) as clients:
        seeds = range(SEED * DEPARTURES, (SEED + 1) * DEPARTURES)
        came = list(clients.map(lambda seed: depart(server.address, seed), seeds))
    assert any(b"data: " in text for text in came), "some were being answered"
    assert not any(b" 500 " in text.split(b"\r\n")[0] for text in came)
    service = own_api.service
    assert until(lambda: (service.load.running, service.load.waiting) == (0, 0)), service.load
    assert until(lambda: server.connections == 0)
    assert until(lambda: server.tasks() == before), f"{server.tasks()} tasks, {before} before"
    assert service.load.kv_used == service.load.kv_kept
    assert not (service._jobs or service._by_sequence or service._inbox.n_waiting)
    engine = service._engine
    assert engine._reuse.make_room(engine.n_cells), "not all cells can be freed"
    # Some end while it is on its way that nobody wants them any more.
    assert endings.finished <= sum(map(finishes, came)) + DEPARTURES // 20
    assert endings.cancelled > DEPARTURES // 4
    answer = own_api.answer("completions", prompt="hello", max_tokens=3)
    assert answer["usage"]["completion_tokens"] == 3

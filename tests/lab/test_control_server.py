"""The serving end of a control socket, with clients of every sort."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from halo_edge.lab.control_server import MAX_CLIENTS, ControlServer


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "control"


@pytest.fixture
def server(path: Path) -> ControlServer:
    return ControlServer(path)


def shout(message: bytes) -> bytes:
    return message.upper()


def connect(path: Path, server: ControlServer) -> socket.socket:
    client = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    client.settimeout(5)
    client.connect(str(path))
    server.serve(server.sources[0], shout)
    return client


def test_a_request_is_answered(path: Path, server: ControlServer) -> None:
    with connect(path, server) as client:
        client.send(b"hello")
        server.serve(server.sources[1], shout)
        assert client.recv(99) == b"HELLO"


def test_only_the_owner_may_connect(path: Path, server: ControlServer) -> None:
    assert path.stat().st_mode & 0o777 == 0o600


def test_who_goes_away_is_forgotten(path: Path, server: ControlServer) -> None:
    connect(path, server).close()
    server.serve(server.sources[1], shout)
    assert len(server.sources) == 1


def test_too_many_clients_are_turned_away(path: Path, server: ControlServer) -> None:
    clients = [connect(path, server) for _ in range(MAX_CLIENTS + 1)]
    assert len(server.sources) == 1 + MAX_CLIENTS
    assert clients[-1].recv(99) == b""  # its end
    for client in clients:
        client.close()


def test_who_does_not_read_does_not_block(path: Path, server: ControlServer) -> None:
    with connect(path, server) as client:
        for _ in range(50):
            client.send(b"x")
            server.serve(server.sources[1], lambda _: b"y" * (1 << 16))
        assert client.recv(1 << 20) == b"y" * (1 << 16)

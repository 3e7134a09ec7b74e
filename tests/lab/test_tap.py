"""TAP devices in namespaces; frames of one go to the other by hand."""

from __future__ import annotations

import os
import select
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from halo_edge.errors import HaloError
from halo_edge.lab import namespaces
from halo_edge.lab.tap import MAX_FRAME, open_tap

NAMES = ["halo.test-tap.n0", "halo.test-tap.n1"]
INTERFACE = "lan0"
MACS = ["02:00:00:00:00:01", "02:00:00:00:00:02"]
ADDRESSES = ["10.77.0.1", "10.77.0.2"]


@pytest.fixture
def two(root_user: None) -> Iterator[list[str]]:
    if not Path("/dev/net/tun").exists():
        pytest.skip("needs /dev/net/tun")
    for name in NAMES:
        namespaces.remove(name)  # what an interrupted run left
        namespaces.create(name)
    yield NAMES
    for name in NAMES:
        namespaces.remove(name)


def interfaces(name: str) -> list[str]:
    with namespaces.inside(name):
        return sorted(interface for _, interface in socket.if_nameindex())


def test_is_where_it_was_opened_as_long_as_it_is_open(two: list[str]) -> None:
    ours = [interface for _, interface in socket.if_nameindex()]
    tap = open_tap(two[0], INTERFACE, MACS[0])
    try:
        assert interfaces(two[0]) == [INTERFACE, "lo"]
        assert interfaces(two[1]) == ["lo"]
        assert [interface for _, interface in socket.if_nameindex()] == ours
        with pytest.raises(BlockingIOError):
            os.read(tap, MAX_FRAME)
        with pytest.raises(HaloError, match=f"^cannot make a TAP device in {two[0]}: .* busy$"):
            open_tap(two[0], INTERFACE, MACS[1])
    finally:
        os.close(tap)
    assert interfaces(two[0]) == ["lo"]


def test_in_no_namespace(root_user: None) -> None:
    with pytest.raises(HaloError, match=r"halo\.test-tap\.n9: No such file"):
        open_tap("halo.test-tap.n9", INTERFACE, MACS[0])
    assert namespaces.existing("halo.test-tap.n9") == []


@contextmanager
def cable(two: list[str]) -> Iterator[list[int]]:
    """Carry frames from each TAP to the other; the length of each."""
    taps = [open_tap(name, INTERFACE, mac) for name, mac in zip(two, MACS, strict=True)]
    for i, name in enumerate(two):
        there = {ADDRESSES[1 - i]: MACS[1 - i]}
        namespaces.configure(name, INTERFACE, ADDRESSES[i], 24, there)
    lengths: list[int] = []
    end_read, end_write = os.pipe()

    def carry() -> None:
        while end_read not in (ready := select.select([*taps, end_read], (), ())[0]):
            for tap in ready:
                frame = os.read(tap, 1 << 16)
                lengths.append(len(frame))
                os.write(taps[1 - taps.index(tap)], frame)

    thread = threading.Thread(target=carry)
    thread.start()
    try:
        yield lengths
    finally:
        os.write(end_write, b"x")
        thread.join()
        for fd in (*taps, end_read, end_write):
            os.close(fd)


def test_tcp_comes_in_frames_of_ordinary_size(two: list[str]) -> None:
    """Not in super-packets of 64 KB, each of which would be lost, or delayed, as one."""
    data = os.urandom(1_000_000)
    with cable(two) as lengths:
        with namespaces.inside(two[1]):
            listener = socket.create_server((ADDRESSES[1], 5001))
        with namespaces.inside(two[0]):
            client = socket.create_connection((ADDRESSES[1], 5001), 10)
        server, _ = listener.accept()
        with listener, client, server:
            server.settimeout(10)
            sender = threading.Thread(target=lambda: (client.sendall(data), client.close()))
            sender.start()
            received = b"".join(iter(lambda: server.recv(1 << 16), b""))
            sender.join()
    assert received == data
    assert max(lengths) == MAX_FRAME
    assert lengths.count(MAX_FRAME) >= len(data) // 1460

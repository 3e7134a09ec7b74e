"""Network namespaces with a TAP each; the frames that leave them are read here."""

from __future__ import annotations

import os
import select
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from pyroute2 import IPRoute

from halo_edge.errors import HaloError
from halo_edge.lab import namespaces
from halo_edge.lab.tap import open_tap

NAME = "halo.test-namespaces.n0"
OTHER = "halo.test-namespaces.n1"
INTERFACE = "lan0"
MAC, OTHER_MAC = "02:00:00:00:00:01", "02:00:00:00:00:02"
ADDRESS, OTHER_ADDRESS = "10.77.0.1", "10.77.0.2"
ARRIVES_S = 5.0


@pytest.fixture
def clean(root_user: None) -> Iterator[None]:
    """Neither is there, before and after."""
    for name in (NAME, OTHER):
        namespaces.remove(name)  # what an interrupted run left
    yield
    for name in (NAME, OTHER):
        namespaces.remove(name)


@pytest.fixture
def name(clean: None) -> str:
    namespaces.create(NAME)
    return NAME


@pytest.fixture
def tap(name: str) -> Iterator[int]:
    """Of a configured interface."""
    if not Path("/dev/net/tun").exists():
        pytest.skip("needs /dev/net/tun")
    fd = open_tap(name, INTERFACE, MAC)
    namespaces.configure(name, INTERFACE, ADDRESS, 24, {OTHER_ADDRESS: OTHER_MAC})
    yield fd
    os.close(fd)


@contextmanager
def udp(name: str) -> Iterator[socket.socket]:
    with namespaces.inside(name):
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with sock:
        yield sock


def read(tap: int) -> bytes:
    assert select.select([tap], (), (), ARRIVES_S)[0]
    return os.read(tap, 1 << 16)


def here() -> int:
    return os.stat("/proc/thread-self/ns/net").st_ino  # noqa: PTH116 - not what it points to


class TestLife:
    def test_made_found_and_taken_away(self, name: str) -> None:
        assert namespaces.existing("halo.test-namespaces.") == [name]
        with pytest.raises(HaloError, match=f"^cannot make the network namespace {name}: File ex"):
            namespaces.create(name)
        namespaces.remove(name)
        assert namespaces.existing("halo.test-namespaces.") == []
        namespaces.remove(name)

    def test_inside(self, name: str) -> None:
        before = here()
        with namespaces.inside(name):
            assert here() != before
            assert [interface for _, interface in socket.if_nameindex()] == ["lo"]
        assert here() == before

    def test_out_again_after_an_error(self, name: str) -> None:
        before = here()
        with pytest.raises(ZeroDivisionError), namespaces.inside(name):
            raise ZeroDivisionError
        assert here() == before

    def test_one_that_is_not_there_is_not_made(self, clean: None) -> None:
        before = here()
        missing = f"^cannot enter or change the network namespace {OTHER}: No such file"
        with pytest.raises(HaloError, match=missing), namespaces.inside(OTHER):
            pass
        with pytest.raises(HaloError, match=missing):
            namespaces.configure(OTHER, INTERFACE, ADDRESS, 24, {})
        with pytest.raises(HaloError, match=missing):
            namespaces.frames_dropped(OTHER, INTERFACE)
        assert namespaces.existing(OTHER) == []
        assert here() == before

    def test_an_interface_that_is_not_there(self, name: str) -> None:
        missing = f"^cannot enter or change .*{name}: no interface {INTERFACE}$"
        with pytest.raises(HaloError, match=missing):
            namespaces.configure(name, INTERFACE, ADDRESS, 24, {})
        with pytest.raises(HaloError, match=missing):
            namespaces.frames_dropped(name, INTERFACE)

    def test_configured_twice(self, tap: int, name: str) -> None:
        with pytest.raises(HaloError, match=f"^cannot enter or change .*{name}: .*exists"):
            namespaces.configure(name, INTERFACE, ADDRESS, 24, {})


class TestNetwork:
    def test_the_first_frame_is_the_first_packet(self, tap: int, name: str) -> None:
        """Nothing else is sent: no ARP, nothing of IPv6."""
        with udp(name) as sock:
            sock.sendto(b"payload", (OTHER_ADDRESS, 9))
        frame = read(tap)
        assert frame[:14].hex(":") == f"{OTHER_MAC}:{MAC}:08:00"
        assert frame.endswith(b"payload")
        with pytest.raises(BlockingIOError):
            os.read(tap, 1 << 16)

    def test_multicast_leaves_by_the_interface(self, tap: int, name: str) -> None:
        with udp(name) as sock:
            sock.sendto(b"who is there?", ("224.0.0.224", 7446))
        assert read(tap)[:6].hex(":") == "01:00:5e:00:00:e0"

    def test_to_itself(self, tap: int, name: str) -> None:
        with udp(name) as sock:
            sock.settimeout(ARRIVES_S)
            sock.bind((ADDRESS, 0))
            sock.sendto(b"x", sock.getsockname())
            assert sock.recv(9) == b"x"

    def test_cubic_whatever_the_host_uses(self, tap: int, name: str) -> None:
        """The route tells a connection as soon as it is begun."""
        with namespaces.inside(name):
            sock = socket.socket()
        with sock:
            sock.setblocking(False)
            assert sock.connect_ex((OTHER_ADDRESS, 9)) != 0
            algorithm = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16)
        assert algorithm.rstrip(b"\0") == b"cubic"

    def test_what_the_queue_has_no_room_for_is_counted(self, tap: int, name: str) -> None:
        packets = namespaces.QUEUE_FRAMES + 100
        with udp(name) as sock:
            for _ in range(packets):
                sock.sendto(b"x", (OTHER_ADDRESS, 9))
        assert namespaces.frames_dropped(name, INTERFACE) == 100

    def test_ipv6_is_off(self, tap: int, name: str) -> None:
        with namespaces.inside(name), IPRoute() as netlink:
            assert list(netlink.get_addr(family=socket.AF_INET6)) == []

"""Links by the kernel's netem, with real packets: that it does what the settings say."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import groupby
from pathlib import Path

import pytest

from halo_edge.errors import HaloError
from halo_edge.lab import namespaces, running
from halo_edge.lab.fabrics import running_fabric
from halo_edge.lab.lab import Lab
from halo_edge.lab.link import Burst, LinkSettings
from halo_edge.lab.names import LabNames
from halo_edge.lab.qdisc import available
from halo_edge.lab.spec import DeviceSpec, FabricKind, LabSpec

LAB = "test-netem"
NAMES = LabNames(LAB)
HEADERS = 14 + 20 + 8
IP_RECVERR = 11


@pytest.fixture(autouse=True)
def netem(root_user: None) -> None:
    if not available():
        pytest.skip("this kernel has no netem")


def spec(down: LinkSettings = LinkSettings(), up: LinkSettings = LinkSettings()) -> LabSpec:  # noqa: B008
    """Two devices, `down` and `up` the link of the second."""
    devices = (DeviceSpec("n0"), DeviceSpec("n1", up=up, down=down))
    return LabSpec(LAB, devices, seed=5, fabric=FabricKind.NETEM)


@contextmanager
def sockets() -> Iterator[tuple[socket.socket, socket.socket]]:
    """UDP, one on each device; the second one's receiving buffer is large."""
    made = []
    for i, device in enumerate(("n0", "n1")):
        with namespaces.inside(NAMES.namespace(device)):
            made.append(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        made[i].setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 24)
        made[i].setsockopt(socket.SOL_SOCKET, 33, 1 << 26)  # SO_RCVBUFFORCE
        made[i].bind((NAMES.address(i), 5000))
    try:
        made[0].connect((NAMES.address(1), 5000))
        made[1].connect((NAMES.address(0), 5000))
        yield made[0], made[1]
    finally:
        for each in made:
            each.close()


def arrivals(receiver: socket.socket, quiet_s: float = 0.3) -> list[tuple[float, bytes]]:
    """What arrives, and when, until nothing does."""
    receiver.settimeout(quiet_s)
    found = []
    try:
        while True:
            packet = receiver.recv(2048)
            found.append((time.monotonic(), packet))
    except TimeoutError:
        return found


def test_loss_is_as_asked_and_as_counted() -> None:
    sent = 20_000
    with Lab(spec(LinkSettings(loss=0.05))) as lab, sockets() as (n0, n1):
        for _ in range(sent):
            n0.send(b"x" * 100)
        received = len(arrivals(n1))
        counted = lab.counters()["n1"].down
        assert counted.offered == sent
        assert counted.lost == sent - received
        assert lab.counters()["n0"].up.lost == 0
    assert counted.realised_loss == pytest.approx(0.05, abs=0.008)  # 5 standard deviations


def test_the_sender_is_not_told_of_loss() -> None:
    """Its stack would say so, as it does of a full queue, and TCP would act on it."""
    with Lab(spec(up=LinkSettings(loss=1.0))) as lab, sockets() as (_, n1):
        n1.setsockopt(socket.IPPROTO_IP, IP_RECVERR, 1)
        for _ in range(500):
            n1.send(b"x")
        assert lab.counters()["n1"].up.lost == 500


def test_delay_each_way() -> None:
    """The shortest of some counts: a busy machine only adds."""
    with (
        Lab(spec(LinkSettings(delay_ms=5), LinkSettings(delay_ms=15))) as lab,
        sockets() as (n0, n1),
    ):
        assert lab.warnings() == []
        for sender, receiver, delay_s in ((n0, n1, 0.005), (n1, n0, 0.015)):
            receiver.settimeout(5)
            found = []
            for _ in range(20):
                began = time.monotonic()
                sender.send(b"x")
                receiver.recv(99)
                found.append(time.monotonic() - began)
            assert delay_s <= min(found) < delay_s + 0.002


@pytest.mark.parametrize("reorder", [0.0, 1.0])
def test_jitter_keeps_the_order_unless_asked(reorder: float) -> None:
    settings = LinkSettings(delay_ms=1, jitter_ms=6, reorder=reorder)
    with Lab(spec(settings)), sockets() as (n0, n1):
        for i in range(500):
            n0.send(b"%d %f" % (i, time.monotonic()))
        found = arrivals(n1)
        numbers = [int(packet.split()[0]) for _, packet in found]
        delays = [at - float(packet.split()[1]) for at, packet in found]
        assert sorted(numbers) == list(range(500))
        assert (numbers == sorted(numbers)) == (reorder == 0)
        assert min(delays) >= 0.001
        assert max(delays) >= 0.005


def test_a_rate_spaces_packets() -> None:
    nbytes, count = 1000, 100
    with Lab(spec(LinkSettings(rate_mbit=10, queue_ms=1000))), sockets() as (n0, n1):
        for _ in range(count):
            n0.send(b"x" * (nbytes - HEADERS))
        found = [at for at, _ in arrivals(n1)]
    assert len(found) == count
    assert found[-1] - found[0] == pytest.approx((count - 1) * nbytes * 8 / 10e6, rel=0.1)


def test_a_full_queue_is_not_loss() -> None:
    """And the sender is not told of it either: the queue is at the access point, say."""
    settings = LinkSettings(rate_mbit=1, queue_ms=50)
    with Lab(spec(up=settings)) as lab, sockets() as (n0, n1):
        n1.setsockopt(socket.IPPROTO_IP, IP_RECVERR, 1)
        for _ in range(100):
            n1.send(b"x" * (1514 - HEADERS))
        received = len(arrivals(n0))
        counted = lab.counters()["n1"].up
    assert 6 <= received <= 8  # one under way and 50 ms of them, by 12 ms each
    assert (counted.offered, counted.lost, counted.overflowed) == (100, 0, 100 - received)


def test_damaged_packets_are_refused_by_their_checksum() -> None:
    with Lab(spec(LinkSettings(corrupt=1.0))) as lab, sockets() as (n0, n1):
        for _ in range(200):
            n0.send(b"x" * 1000)
        assert len(arrivals(n1)) < 20  # a bit of the sender's MAC address, which nobody reads
        assert lab.counters()["n1"].down.lost == 0


def test_repeated_packets() -> None:
    with Lab(spec(LinkSettings(duplicate=1.0))), sockets() as (n0, n1):
        for i in range(100):
            n0.send(b"%d" % i)
        assert sorted(packet for _, packet in arrivals(n1)) == sorted(
            [b"%d" % i for i in range(100)] * 2
        )


def test_cut_and_joined_by_another_process() -> None:
    described = spec(LinkSettings(loss=0.5), LinkSettings(delay_ms=1))
    with Lab(described) as lab, sockets() as (n0, n1):
        with running_fabric(described, NAMES) as fabric:
            assert fabric.describe() == "links by the kernel's netem"
            assert fabric.links()["n1"] == (LinkSettings(delay_ms=1), LinkSettings(loss=0.5))
        running.change(described, "n1", cut=True)
        for _ in range(100):
            n0.send(b"x")
            n1.send(b"x")
        assert arrivals(n1) == arrivals(n0) == []
        running.change(described, "n1", cut=False, settings=LinkSettings())
        for i in range(100):
            n0.send(b"%d" % i)
        assert [packet for _, packet in arrivals(n1)] == [b"%d" % i for i in range(100)]
        counted = lab.counters()["n1"]
        assert (counted.up.cut, counted.down.cut, counted.down.lost) == (100, 100, 0)
        with pytest.raises(HaloError, match="netem lets all packets overtake or none"):
            running.change(described, "n1", settings=LinkSettings(jitter_ms=1, reorder=0.5))


def test_bursts_are_clocked_by_time() -> None:
    """With a packet every millisecond they are lost in runs as long as bursts are."""
    got: set[int] = set()
    with Lab(spec(LinkSettings(burst=Burst(60, 40)))) as lab, sockets() as (n0, n1):
        began = time.monotonic()
        for i in range(3000):
            n0.send(b"%d" % i)
            while (left_s := began + i * 1e-3 - time.monotonic()) > 0:
                n1.settimeout(left_s)
                with suppress(TimeoutError):
                    got.add(int(n1.recv(99)))
        got.update(int(packet) for _, packet in arrivals(n1))
        assert lab.counters()["n1"].down.lost == 3000 - len(got)
    runs = [len(list(run)) for lost, run in groupby(range(3000), lambda i: i not in got) if lost]
    assert 15 < sum(runs) / len(runs) < 80  # 1.7, were they lost each by itself
    assert 0.2 < sum(runs) / 3000 < 0.65


def test_tcp_packets_are_frames() -> None:
    """Without offloads, a transfer of 1 MB takes its 1460 bytes a packet."""
    with Lab(spec()) as lab:
        with namespaces.inside(NAMES.namespace("n1")):
            listener = socket.create_server((NAMES.address(1), 5001))
        with namespaces.inside(NAMES.namespace("n0")):
            client = socket.create_connection((NAMES.address(1), 5001), 5)
        server, _ = listener.accept()
        with listener, client, server:
            for _ in range(100):
                client.sendall(bytes(10_000))
                left = 10_000
                while left:
                    left -= len(server.recv(left))
        assert lab.counters()["n0"].up.offered >= 1_000_000 / 1460


def test_nothing_is_left_of_a_killed_lab() -> None:
    program = (
        "import signal, test_netem_fabric as t\n"
        "lab = t.Lab(t.spec())\n"
        "print('up', flush=True)\n"
        "signal.pause()"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent)}
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as owner:
        assert owner.stdout is not None
        owner.stdout.readline()
        client = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        client.settimeout(10)
        client.connect(str(NAMES.netem))
        owner.send_signal(signal.SIGKILL)
        assert client.recv(99) == b""  # the process that keeps the links has ended
        client.close()
    assert namespaces.existing(NAMES.namespace("")) != []
    running.take_down(LAB)
    assert namespaces.existing(NAMES.namespace("")) == []
    assert not NAMES.directory.exists()

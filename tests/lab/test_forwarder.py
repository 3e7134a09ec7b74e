"""The forwarder: its answers without packets, and its packets through real TAPs."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import signal
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
from pyroute2 import IPRoute

from halo_edge.errors import HaloError
from halo_edge.lab import forwarder, namespaces, running
from halo_edge.lab.control_server import ControlServer
from halo_edge.lab.forwarder import Forwarder, ForwarderStart, PortStart
from halo_edge.lab.forwarder_control import Ask, Failed, ForwarderClient, SetLink, Status
from halo_edge.lab.forwarder_fabric import started_forwarder
from halo_edge.lab.link import Burst, Link, LinkSettings
from halo_edge.lab.names import LabNames
from halo_edge.lab.spec import DeviceSpec, LabSpec

LAB = "test-forwarder"
NAMES = LabNames(LAB)
DEVICES = ("n0", "n1", "n2")
SEED = 7
CLEAN = LinkSettings()
DEADLINE_S = 20.0
PORT = 9


def start(control: Path, **links: tuple[LinkSettings, LinkSettings]) -> ForwarderStart:
    """Three devices with clean links, but for `links`: up and down, by device."""
    return ForwarderStart(
        seed=SEED,
        interface=NAMES.interface,
        ports=[
            PortStart(d, NAMES.namespace(d), NAMES.mac(i), *links.get(d, (CLEAN, CLEAN)))
            for i, d in enumerate(DEVICES)
        ],
        control=str(control),
        cores=sorted(os.sched_getaffinity(0)),
        parent=os.getpid(),
    )


def spec(**links: tuple[LinkSettings, LinkSettings]) -> LabSpec:
    devices = []
    for name in DEVICES:
        up, down = links.get(name, (CLEAN, CLEAN))
        devices.append(DeviceSpec(name, up=up, down=down))
    return LabSpec(LAB, tuple(devices), seed=SEED)


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


# Without packets: pairs of sockets stand in for the TAPs.


class Ended(Exception):
    """Raised where the forwarder would wait for more."""


@pytest.fixture
def wires(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[socket.socket]]:
    """The devices' ends of what the forwarder takes for TAPs."""
    ours: list[socket.socket] = []
    theirs: list[socket.socket] = []

    def open_wire(namespace: str, interface: str, mac: str) -> int:
        here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for end in (here, there):
            end.setblocking(False)
        ours.append(here)
        theirs.append(there)
        return there.fileno()

    monkeypatch.setattr(forwarder, "open_tap", open_wire)
    yield ours
    for end in (*ours, *theirs):
        end.close()


@pytest.fixture
def made(wires: list[socket.socket], tmp_path: Path) -> Forwarder:
    return Forwarder(start(tmp_path / "control", n1=(LinkSettings(loss=0.5), CLEAN)))


def run_dry(made: Forwarder, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run until there is nothing to read and nothing due."""

    class Select:
        def select(self, sources: list[int], *rest: object) -> tuple[list[int], ...]:
            ready = select_now(sources, (), (), 0)
            if not ready[0] and made._switch.next_due is None:
                raise Ended
            return ready

    select_now = forwarder.select.select
    monkeypatch.setattr(forwarder, "select", Select())
    with pytest.raises(Ended):
        made.run(ControlServer(path))


def frame(to: int, source: int, payload: bytes) -> bytes:
    macs = [bytes([2, 0, 0, 0, 0, i + 1]) for i in (to, source)]
    return b"".join(macs) + b"\x08\x00" + payload


def test_settings_are_changed(made: Forwarder) -> None:
    up, down = LinkSettings(delay_ms=3, burst=Burst(50, 5)), LinkSettings(cut=True)
    status = made.handle(msgspec.json.encode(SetLink("n2", up, down)))
    assert isinstance(status, Status)
    assert (status.devices["n2"].up, status.devices["n2"].down) == (up, down)
    assert status.devices["n1"].up == LinkSettings(loss=0.5)
    assert list(status.devices) == list(DEVICES)


@pytest.mark.parametrize(
    "message",
    [
        b"?",
        b"{}",
        b"null",
        b"\xff\xfe",
        b'{"type":"Ask","more":1}',
        b'{"type":"Stop"}',
        b'{"type":"SetLink","device":"n1","up":{"loss":2},"down":{}}',
        b'{"type":"SetLink","device":"n1","up":{"delay_ms":1e999},"down":{}}',
        b'{"type":"SetLink","device":"n9","up":{},"down":{}}',
        b'{"x":' * 100_000,
        b'{"x":' + b"[" * 100_000,
    ],
    ids=lambda message: repr(message[:40]),
)
def test_nonsense_is_refused_and_changes_nothing(made: Forwarder, message: bytes) -> None:
    before = made.handle(msgspec.json.encode(Ask()))
    assert isinstance(made.handle(message), Failed)
    after = made.handle(msgspec.json.encode(Ask()))
    assert isinstance(before, Status) and isinstance(after, Status)
    assert before.devices == after.devices


def test_random_bytes_are_refused(made: Forwarder) -> None:
    rng = random.Random(1)
    valid = msgspec.json.encode(SetLink("n1", LinkSettings(loss=0.1), CLEAN))
    for _ in range(2000):
        damaged = bytearray(valid)
        for _ in range(rng.randrange(1, 5)):
            damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        assert isinstance(made.handle(bytes(damaged)), Status | Failed)
        assert isinstance(made.handle(rng.randbytes(rng.randrange(200))), Failed)


def test_frames_and_their_books(
    made: Forwarder, wires: list[socket.socket], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More than a batch, in order, to whom they are for."""
    for i in range(100):
        wires[0].send(frame(1, 0, b"%d" % i))
    wires[2].send(frame(0, 2, b"back"))
    run_dry(made, tmp_path / "control", monkeypatch)
    assert [wires[1].recv(99)[14:] for _ in range(100)] == [b"%d" % i for i in range(100)]
    assert wires[0].recv(99)[14:] == b"back"
    status = made.handle(msgspec.json.encode(Ask()))
    assert isinstance(status, Status)
    assert status.frames == 101
    assert status.devices["n0"].up_counters.offered == 100
    assert status.devices["n0"].down_counters.offered == 1
    assert status.devices["n1"].down_counters.offered == 100


def test_a_device_that_is_gone_does_not_hold_up_the_others(
    made: Forwarder, wires: list[socket.socket], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = made._taps[1]
    read = os.read

    def read_unless_gone(fd: int, nbytes: int) -> bytes:
        if fd == gone:
            raise OSError(77, "File descriptor in bad state")
        return read(fd, nbytes)

    monkeypatch.setattr(forwarder.os, "read", read_unless_gone)
    wires[1].send(b"never read, so readable for ever")
    wires[0].send(frame(2, 0, b"to one that is there"))
    run_dry(made, tmp_path / "control", monkeypatch)  # and so comes to an end
    assert wires[2].recv(99)[14:] == b"to one that is there"


@pytest.mark.parametrize(
    ("took_s", "late", "behind"), [(1e-6, False, False), (20e-6, False, True), (1e-3, True, True)]
)
def test_a_device_whose_frames_wait_is_noticed(
    made: Forwarder,
    wires: list[socket.socket],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    took_s: float,
    late: bool,
    behind: bool,
) -> None:
    """Each reading takes `took_s`, and the frames are as many as take four turns. Where no frame is
    late by the time from its reading, it may be by the time it waited to be read."""
    now = [100.0]

    def read_slowly(fd: int, nbytes: int) -> bytes:
        now[0] += took_s
        return read(fd, nbytes)

    read = os.read
    monkeypatch.setattr(forwarder.os, "read", read_slowly)
    monkeypatch.setattr(forwarder.time, "monotonic", lambda: now[0])
    for i in range(4 * forwarder.BATCH):
        wires[0].send(frame(1, 0, b"%d" % i))
    run_dry(made, tmp_path / "control", monkeypatch)
    status = made.handle(msgspec.json.encode(Ask()))
    assert isinstance(status, Status)
    assert (status.behind_s > 0) == behind
    assert (status.late > 0) == late


# With packets.


@pytest.fixture
def lab(root_user: None) -> Iterator[None]:
    """The namespaces, in which `forwarding` makes the interfaces."""
    if not Path("/dev/net/tun").exists():
        pytest.skip("needs /dev/net/tun")
    with contextlib.suppress(HaloError):
        running.take_down(LAB)  # what an interrupted run left
    try:
        with running.owned(LAB):
            for device in DEVICES:
                namespaces.create(NAMES.namespace(device))
            yield
    finally:
        running.take_down(LAB)


def join(device: str) -> None:
    i = DEVICES.index(device)
    others = NAMES.neighbours(spec(), device)
    namespaces.configure(
        NAMES.namespace(device), NAMES.interface, NAMES.address(i), NAMES.prefix_length, others
    )


@contextlib.contextmanager
def forwarding(**links: tuple[LinkSettings, LinkSettings]) -> Iterator[ForwarderClient]:
    with started_forwarder(spec(**links), NAMES):
        for device in DEVICES:
            join(device)
        with contextlib.closing(ForwarderClient(NAMES.control)) as client:
            yield client


@contextlib.contextmanager
def udp(*devices: str) -> Iterator[list[socket.socket]]:
    """A socket on each device, the first connected to the second, and the other way round."""
    with contextlib.ExitStack() as stack:
        made = []
        for device in devices:
            with namespaces.inside(NAMES.namespace(device)):
                sock = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            sock.setsockopt(socket.SOL_SOCKET, 33, 1 << 26)  # SO_RCVBUFFORCE
            sock.bind((NAMES.address(DEVICES.index(device)), PORT))
            sock.settimeout(DEADLINE_S)
            made.append(sock)
        for one, other in ((0, 1), (1, 0)):
            made[one].connect(made[other].getsockname())
        yield made


def waiting(sock: socket.socket) -> list[bytes]:
    """What has arrived."""
    sock.setblocking(False)
    found = []
    with contextlib.suppress(BlockingIOError):
        while True:
            found.append(sock.recv(2048))
    return found


def interfaces() -> list[list[str]]:
    """Of each device."""
    found = []
    for device in DEVICES:
        with namespaces.inside(NAMES.namespace(device)):
            found.append(sorted(interface for _, interface in socket.if_nameindex()))
    return found


def test_loss_is_that_of_the_seed(lab: None) -> None:
    """Packet by packet what the link alone says, and within 0.3 points of what was asked."""
    packets, loss = 60_000, LinkSettings(loss=0.05)
    model = Link(loss, f"{SEED}/n1/down")
    expected = [i for i in range(packets) if model.send(100, i)]
    with forwarding(n1=(CLEAN, loss)) as client, udp("n0", "n1") as (n0, n1):
        for i in range(packets):
            n0.send(b"%d" % i)
            if i % 2000 == 1999:  # not more than the interface's queue holds
                wait_for(lambda: client.ask(Ask()).devices["n1"].down_counters.offered > i)  # noqa: B023
        wait_for(lambda: client.ask(Ask()).frames == len(expected))  # none is in the switch still
        counted = client.ask(Ask()).devices["n1"].down_counters
        arrived = [int(packet) for packet in waiting(n1)]
        assert arrived == expected
        assert counted == model.counters
        assert 1 - len(arrived) / packets == pytest.approx(0.05, abs=0.003)
        assert namespaces.frames_dropped(NAMES.namespace("n0"), NAMES.interface) == 0


def test_loss_on_the_way_up_is_not_told_to_the_sender(lab: None) -> None:
    """Its stack would be, were the packet refused by its own interface."""
    with forwarding(n1=(LinkSettings(loss=1.0), CLEAN)) as client, udp("n1", "n0") as (n1, _):
        n1.setsockopt(socket.IPPROTO_IP, 11, 1)  # IP_RECVERR
        for _ in range(100):
            n1.send(b"x")
        wait_for(lambda: client.ask(Ask()).devices["n1"].up_counters.lost == 100)


def test_delay_is_as_asked(lab: None) -> None:
    """Never shorter, and hardly longer when the machine has time: in the best quarter. The exact
    figures are those of `halo lab capacity`, as they are the machine's, and this one runs tests."""
    links = (LinkSettings(delay_ms=6), LinkSettings(delay_ms=14))
    with forwarding(n1=links), udp("n0", "n1") as (n0, n1):
        for sender, receiver, delay_s in ((n1, n0, 0.006), (n0, n1, 0.014)):
            found = []
            for _ in range(30):
                began = time.monotonic()
                sender.send(b"x")
                receiver.recv(9)
                found.append(time.monotonic() - began)
            assert delay_s <= min(found)
            assert statistics.quantiles(found)[0] < delay_s + 0.002


def test_multicast_reaches_all_others(lab: None) -> None:
    group = ("224.1.2.3", PORT)
    with forwarding(), contextlib.ExitStack() as stack:
        members = []
        for device in DEVICES:
            with namespaces.inside(NAMES.namespace(device)):
                member = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            member.bind(group)
            member.settimeout(DEADLINE_S)
            interface = socket.inet_aton(NAMES.address(DEVICES.index(device)))
            joined = socket.inet_aton(group[0]) + interface
            member.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, joined)
            member.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_LOOP, 0)
            members.append(member)
        members[0].sendto(b"all", group)
        assert [member.recv(9) for member in members[1:]] == [b"all"] * 2
        assert waiting(members[0]) == []


def test_cut_and_joined(lab: None) -> None:
    cut = LinkSettings(cut=True)
    with forwarding() as client, udp("n0", "n1") as (n0, n1):
        client.ask(SetLink("n1", cut, cut))
        for _ in range(50):
            n0.send(b"x")
            n1.send(b"x")
        wait_for(lambda: client.ask(Ask()).devices["n1"].down_counters.cut == 50)
        wait_for(lambda: client.ask(Ask()).devices["n1"].up_counters.cut == 50)
        assert waiting(n0) == waiting(n1) == []
        client.ask(SetLink("n1", CLEAN, CLEAN))
        n1.settimeout(DEADLINE_S)
        n0.send(b"again")
        assert n1.recv(9) == b"again"


def test_a_tcp_stream_comes_through_intact(lab: None) -> None:
    """Lost, repeated, damaged and overtaking packets are TCP's to repair."""
    bad = LinkSettings(
        loss=0.005, duplicate=0.02, corrupt=0.005, delay_ms=0.2, jitter_ms=0.5, reorder=0.05
    )
    data = random.Random(1).randbytes(1_000_000)
    digest = hashlib.sha256()
    with forwarding(n1=(bad, bad)) as client:
        with namespaces.inside(NAMES.namespace("n1")):
            listener = socket.create_server((NAMES.address(1), PORT))
        with namespaces.inside(NAMES.namespace("n0")):
            sender = socket.create_connection((NAMES.address(1), PORT), DEADLINE_S)
        receiver, _ = listener.accept()
        with listener, sender, receiver:
            receiver.settimeout(DEADLINE_S)
            thread = threading.Thread(target=lambda: (sender.sendall(data), sender.close()))
            thread.start()
            while part := receiver.recv(1 << 16):
                digest.update(part)
            thread.join()
        lost = client.ask(Ask()).devices["n1"].down_counters.lost
    assert digest.digest() == hashlib.sha256(data).digest()
    assert lost > 0


def test_clients_at_once_and_one_that_talks_nonsense(lab: None) -> None:
    with forwarding() as first, contextlib.closing(ForwarderClient(NAMES.control)) as second:
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as third:
            third.settimeout(DEADLINE_S)
            third.connect(str(NAMES.control))
            for message in (b"?", b"[" * 100_000, b'{"x":' * 20_000):
                third.send(message)
                reply = json.loads(third.recv(1 << 20))
                assert reply["type"] == "Failed"
        second.ask(SetLink("n1", LinkSettings(loss=0.5), CLEAN))
        assert first.ask(Ask()).devices["n1"].up == LinkSettings(loss=0.5)
        with pytest.raises(HaloError, match=r"^the lab's links refused: no device 'n9'$"):
            first.ask(SetLink("n9", CLEAN, CLEAN))
        assert first.ask(Ask()).devices == second.ask(Ask()).devices


def test_an_interface_that_goes_away(lab: None) -> None:
    with forwarding() as client, udp("n0", "n2") as (n0, n2):
        with namespaces.inside(NAMES.namespace("n1")), IPRoute() as netlink:
            (index,) = netlink.link_lookup(ifname=NAMES.interface)
            netlink.link("del", index=index)
        n0.sendto(b"to nobody", (NAMES.address(1), PORT))
        n0.send(b"x")
        assert n2.recv(9) == b"x"
        assert client.ask(Ask()).devices["n1"].down_counters.offered == 1


def test_ended_it_takes_its_interfaces_along(lab: None) -> None:
    with forwarding() as client:
        assert interfaces() == [["lan0", "lo"]] * 3
    with pytest.raises(HaloError, match=r"^the lab's links have ended; `halo lab down` cleans up$"):
        client.ask(Ask())
    with pytest.raises(HaloError, match=r"^the lab's links are not there; is the lab up\?$"):
        ForwarderClient(NAMES.control)
    assert interfaces() == [["lo"]] * 3


def test_killed_with_its_parent(lab: None) -> None:
    """As are its interfaces. The parent is killed, and can do nothing about it."""
    program = (
        "import signal, sys, os\n"
        "from halo_edge.lab.forwarder import ForwarderStart\n"
        "from halo_edge.lab.links_process import started\n"
        "import msgspec\n"
        "begin = msgspec.json.decode(sys.argv[1], type=ForwarderStart)\n"
        "begin = msgspec.structs.replace(begin, parent=os.getpid())\n"
        "with started(begin.command(), 'the forwarder'):\n"
        "    print('up', flush=True)\n"
        "    signal.pause()\n"
    )
    argument = msgspec.json.encode(start(NAMES.control)).decode()
    command = [sys.executable, "-c", program, argument]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as parent:
        try:
            assert parent.stdout is not None
            assert parent.stdout.readline() == b"up\n"
            assert interfaces() == [["lan0", "lo"]] * 3
            with contextlib.closing(ForwarderClient(NAMES.control)) as client:
                client.ask(Ask())
                parent.kill()
                parent.wait()
                wait_for(lambda: interfaces() == [["lo"]] * 3)
                with pytest.raises(HaloError, match="have ended"):
                    client.ask(Ask())
        finally:
            parent.kill()


def test_no_namespace_no_forwarder(lab: None) -> None:
    namespaces.remove(NAMES.namespace("n2"))
    problem = r"^the lab's forwarder: cannot .*halo\.test-forwarder\.n2: No such file or directory$"
    with pytest.raises(HaloError, match=problem), started_forwarder(spec(), NAMES):
        pass
    assert namespaces.existing(NAMES.namespace("n2")) == []


def test_a_second_forwarder_is_refused(lab: None) -> None:
    with (
        forwarding(),
        pytest.raises(HaloError, match=r"^the lab's forwarder: cannot make a TAP .* busy$"),
        started_forwarder(spec(), NAMES),
    ):
        pass


def test_not_without_its_parent(tmp_path: Path) -> None:
    """It was meant for a process that has ended since."""
    begin = msgspec.structs.replace(start(tmp_path / "control"), parent=1 << 22)
    done = subprocess.run(begin.command(), capture_output=True, timeout=DEADLINE_S)
    assert (done.returncode, done.stdout, done.stderr) == (1, b"", b"")


def test_ends_on_sigterm_at_once(lab: None) -> None:
    with subprocess.Popen(start(NAMES.control).command(), stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            process.send_signal(signal.SIGINT)  # Ctrl-C is not for it
            process.terminate()
            assert process.wait(DEADLINE_S) == 0
        finally:
            process.kill()

"""A whole lab: what it makes, what happens in it, and that nothing of it stays."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from halo_edge.errors import HaloError
from halo_edge.lab import namespaces, running
from halo_edge.lab.cgroups import Hierarchies
from halo_edge.lab.disks import disk_under
from halo_edge.lab.lab import Lab
from halo_edge.lab.link import LinkSettings
from halo_edge.lab.names import LabNames
from halo_edge.lab.spec import LabSpec, parse_spec

NAME = "test-lab"
DEADLINE_S = 30.0
LAB = b"""
name = "test-lab"
seed = 5
[[device]]
name = "n0"
[[device]]
name = "n1"
count = 2
speed = 0.5
memory_mb = 512
storage_mb_s = 90
delay_ms = 2
[[client]]
name = "laptop"
"""
# Sends datagrams to a device that sends them back; prints how many came, and the fastest round
# trip in ms.
PING = """
import socket, sys, time
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.settimeout(0.5)
sock.connect((sys.argv[1], 9))
came, best = 0, 1e9
for _ in range(int(sys.argv[2])):
    sent = time.monotonic()
    try:
        sock.send(b"x")
        sock.recv(9)
        came, best = came + 1, min(best, time.monotonic() - sent)
    except TimeoutError:
        pass
print(came, best * 1e3)
"""
ECHO = """
import socket
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.bind(("0.0.0.0", 9))
print("ready", flush=True)
while True:
    data, peer = sock.recvfrom(9)
    sock.sendto(data, peer)
"""
# The program of a process that builds a lab and keeps it.
OWNER = """
import sys, time
from pathlib import Path
from halo_edge.lab.lab import Lab
from halo_edge.lab.spec import read_spec
with Lab(read_spec(sys.argv[1])) as lab:
    lab.start_workers()
    print("up", flush=True)
    time.sleep(60)
"""


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def left_behind() -> list[str]:
    names, hierarchies = LabNames(NAME), Hierarchies.find()
    paths = [names.directory, *(root / names.cgroup() for root in hierarchies.roots)]
    return [str(path) for path in paths if path.exists()] + namespaces.existing(names.namespace(""))


@pytest.fixture
def spec(root_user: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[LabSpec]:
    """The description; afterwards the lab must be gone."""
    monkeypatch.setenv("HALO_EDGE_CACHE", str(tmp_path))
    with contextlib.suppress(HaloError):
        running.take_down(NAME)  # what an interrupted run of these tests left
    if not Path("/dev/net/tun").exists():
        pytest.skip("needs /dev/net/tun")
    try:
        yield parse_spec(LAB, NAME)
        assert left_behind() == []
    finally:
        running.take_down(NAME)


@contextlib.contextmanager
def echo(lab: Lab, device: str) -> Iterator[None]:
    with lab.spawn(device, [sys.executable, "-c", ECHO], stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"ready\n"
        yield
        process.kill()


@contextlib.contextmanager
def another_owner(directory: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process that has the lab up."""
    path = directory / "lab.toml"
    path.write_bytes(LAB)
    with subprocess.Popen(
        [sys.executable, "-c", OWNER, str(path)], stdout=subprocess.PIPE
    ) as owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == b"up\n"
        yield owner


def ping(lab: Lab, target: str, count: int, source: str = "n0") -> tuple[int, float]:
    command = [sys.executable, "-c", PING, target, str(count)]
    with lab.spawn(source, command, stdout=subprocess.PIPE) as process:
        came, best_ms = process.communicate(timeout=DEADLINE_S)[0].split()
    return int(came), float(best_ms)


def test_links(spec: LabSpec) -> None:
    """4 ms there and back, known by name; cut, and joined again; counted."""
    with Lab(spec) as lab, echo(lab, "n2"):
        came, best_ms = ping(lab, "n2", 20)
        assert came == 20
        assert ping(lab, "n2", 1, "laptop")[0] == 1
        assert 4.0 <= best_ms < 6.0  # what a busy machine adds
        up, down = lab.links["n2"]
        lab.set_link("n2", up, LinkSettings(cut=True))
        assert ping(lab, "n2", 2)[0] == 0
        lab.set_link("n2", up, down)
        assert ping(lab, "n2", 2)[0] == 2
        counters = lab.counters()["n2"]
        assert counters.down.cut == 2
        assert counters.up.offered >= 22
        assert lab.counters()["n1"].up.lost == 0
        assert isinstance(lab.warnings(), list)


def test_what_a_process_of_a_device_is_given(spec: LabSpec) -> None:
    look = (
        "import json, os, socket; from pathlib import Path\n"
        "print(json.dumps([socket.gethostbyname('n2'), sorted(os.listdir('/sys/class/net')),"
        "Path('/proc/self/cgroup').read_text(), Path('/proc/net/route').read_text()]))"
    )
    with Lab(spec) as lab:
        with lab.spawn("n1", [sys.executable, "-c", look], stdout=subprocess.PIPE) as process:
            address, _, groups, routes = json.loads(process.communicate(timeout=DEADLINE_S)[0])
        assert address == "10.77.0.3"
        assert "/halo-lab/test-lab/n1" in groups
        assert "lan0" in routes
        with pytest.raises(HaloError, match="has no device 'n9'"):
            lab.spawn("n9", ["true"])
        with pytest.raises(HaloError, match="is up already; `halo lab down test-lab`"):
            Lab(spec)


def test_caches_of_their_own(spec: LabSpec, tmp_path: Path) -> None:
    with Lab(replace(spec, own_caches=True)) as lab:
        root = Path(lab.environment()["HALO_EDGE_CACHE"])
        assert root.is_dir()
        assert root.is_relative_to(tmp_path)
    assert not root.exists()
    with Lab(spec) as lab:
        assert lab.environment()["HALO_EDGE_CACHE"] == str(tmp_path)


def test_tcp_uses_cubic_whatever_the_host_uses(spec: LabSpec) -> None:
    """A socket is given it by the route, when it connects."""
    connect = (
        "import contextlib, socket\n"
        "sock = socket.socket()\n"
        "with contextlib.suppress(OSError): sock.connect(('n1', 9))\n"
        "print(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16).decode())"
    )
    with (
        Lab(spec) as lab,
        lab.spawn("n0", [sys.executable, "-c", connect], stdout=subprocess.PIPE) as process,
    ):
        assert process.communicate(timeout=DEADLINE_S)[0].strip(b"\0\n") == b"cubic"


def test_workers_and_events(spec: LabSpec) -> None:
    """Each event does to the worker, or its device, what its name says."""
    events = parse_spec(
        LAB + b"".join(
            b'[[event]]\nat_s = %d\ndevice = "n1"\naction = "%s"\n%s\n' % (i, action, more)
            for i, (action, more) in enumerate([
                (b"stop", b""), (b"continue", b""), (b"speed", b"speed = 0.25"),
                (b"link", b"link = { loss = 0.5 }"), (b"cut", b""), (b"join", b""),
                (b"kill", b""), (b"restart", b""),
            ])
        ),
        NAME,
    ).events  # fmt: skip
    hierarchies = Hierarchies.find()
    with Lab(spec) as lab:
        lab.start_workers()
        (pid,) = _workers_of("n1")
        lab.act(events[0])
        wait_for(lambda: _state(pid) == "T")
        lab.act(events[1])
        wait_for(lambda: _state(pid) != "T")
        lab.act(events[2])
        quota = hierarchies.cpu / LabNames(NAME).cgroup("n1")
        name = "cpu.max" if hierarchies.unified else "cpu.cfs_quota_us"
        assert (quota / name).read_text().split()[0] == "1250"
        lab.act(events[3])
        assert lab.links["n1"][0] == LinkSettings(loss=0.5)
        lab.act(events[4])
        assert lab.links["n1"][1] == LinkSettings(loss=0.5, cut=True)
        lab.act(events[5])
        assert lab.links["n1"][1] == LinkSettings(loss=0.5)
        lab.act(events[6])
        wait_for(lambda: not Path(f"/proc/{pid}").exists())
        lab.check()  # it was we who ended it
        lab.act(events[7])
        wait_for(lambda: _workers_of("n1") not in ([], [pid]))


def test_a_disk_limit_is_set_where_it_can_be(
    spec: LabSpec, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    hierarchies, told = Hierarchies.find(), list[str]()
    with Lab(spec, told.append):
        if hierarchies.io is not None and not any("storage_mb_s" in line for line in told):
            name = "io.max" if hierarchies.unified else "blkio.throttle.read_bps_device"
            limits = hierarchies.io / LabNames(NAME).cgroup("n2") / name
            assert f"{disk_under(tmp_path)} " in limits.read_text()
            assert "90000000" in limits.read_text()
    told.clear()

    def no_disk(directory: Path) -> str:
        raise HaloError(f"{directory} is not on a block device of its own")

    monkeypatch.setattr("halo_edge.lab.lab.disk_under", no_disk)
    with Lab(spec, told.append) as up:
        assert up.spawn("n2", ["true"]).wait(DEADLINE_S) == 0
    shards = tmp_path / "shards"
    assert [line for line in told if "storage_mb_s" in line] == [
        f"lab {NAME}: storage_mb_s is for plans only, as {shards} is not on a block device of its "
        "own"
    ]


def test_a_worker_that_ends_by_itself_is_told(spec: LabSpec) -> None:
    with Lab(spec) as lab:
        lab.start_workers()
        (pid,) = _workers_of("n2")
        os.kill(pid, signal.SIGKILL)

        def ended() -> bool:
            try:
                lab.check()
            except HaloError as error:
                return "the worker on n2 has ended" in str(error)
            return False

        wait_for(ended)


def test_a_lab_after_one_whose_owner_was_killed(spec: LabSpec, tmp_path: Path) -> None:
    with another_owner(tmp_path) as owner:
        assert running.is_up(NAME)
        pids = _workers_of("n1") + _workers_of("n2")
        assert len(pids) == 2
        owner.kill()
        owner.wait()
    assert not running.is_up(NAME)
    wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids))
    assert left_behind() != []  # names, which only `down` takes away
    assert NAME in running.labs()
    with Lab(spec):  # the next one of this name is not kept from coming up
        assert running.is_up(NAME)
    assert left_behind() == []


def test_down_takes_away_what_sigkill_left(spec: LabSpec, tmp_path: Path) -> None:
    with another_owner(tmp_path) as owner:
        owner.kill()
        owner.wait()
    assert left_behind() != []
    running.take_down(NAME)
    assert left_behind() == []


def test_a_lab_that_another_process_has_up(spec: LabSpec, tmp_path: Path) -> None:
    """It can be entered, changed, and ended."""
    with another_owner(tmp_path) as owner:
        entry = running.entry(spec, "n1")
        seen = subprocess.run(entry.command(["cat", "/proc/self/cgroup"]), capture_output=True)
        assert b"/halo-lab/test-lab/n1" in seen.stdout
        running.change(spec, "n2", settings=LinkSettings(loss=0.25), cut=True, speed=0.1)
        with pytest.raises(HaloError, match="no device 'n7'"):
            running.change(spec, "n7", cut=True)
        running.take_down(NAME)
        assert owner.wait(DEADLINE_S) != 0
    with pytest.raises(HaloError, match="is not up"):
        running.change(spec, "n2", cut=False)


def _workers_of(device: str) -> list[int]:
    procs = Hierarchies.find().cpu / LabNames(NAME).cgroup(device) / "cgroup.procs"
    return sorted(map(int, procs.read_text().split()))


def _state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]

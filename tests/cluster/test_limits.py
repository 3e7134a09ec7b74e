"""What a process may use, read from made-up control groups of both versions."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from pathlib import Path

import pytest

from halo_edge.cluster.limits import available_bytes, read_limits

MB = 1 << 20
UNLIMITED_V1 = 9223372036854771712


@dataclass
class Machine:
    """A `/proc` and mounts below a directory. Mount points are written as mountinfo does."""

    directory: Path

    @property
    def proc(self) -> Path:
        return self.directory / "proc"

    def write(self, name: str, text: str) -> None:
        path = self.directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def own_groups(self, *lines: str) -> None:
        self.write("proc/self/cgroup", "\n".join(lines) + "\n")

    def mount(self, name: str, kind: str, options: str, root: str = "/") -> None:
        mount_point = str(self.directory / name).replace(" ", "\\040")
        path = self.proc / "self/mountinfo"
        before = path.read_text() if path.exists() else "22 1 254:0 / / rw - ext4 /dev/root rw\n"
        line = f"30 22 0:26 {root} {mount_point} rw,nosuid shared:9 - {kind} cgroup {options}\n"
        self.write("proc/self/mountinfo", before + line)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    made = Machine(tmp_path / "a machine")
    made.write("proc/meminfo", "MemTotal:        1000 kB\nMemFree:         500 kB\n")
    made.write("proc/sys/kernel/random/boot_id", "0d9d3c0e-7b5c-4d8e-9c0f-0123456789ab\n")
    return made


def unified(machine: Machine, path: str, root: str = "/") -> None:
    machine.own_groups(f"0::{path}")
    machine.mount("unified", "cgroup2", "rw", root)
    machine.write("proc/meminfo", f"MemTotal: {8 << 20} kB\n")


def test_this_machine() -> None:
    limits = read_limits()
    assert limits.cores and all(core >= 0 for core in limits.cores)
    assert limits.machine == read_limits().machine
    if Path("/proc/meminfo").exists():
        assert limits.memory_bytes is not None and limits.memory_bytes > MB
    assert limits.cpu_quota is None or limits.cpu_quota > 0


def test_where_there_are_no_files(tmp_path: Path) -> None:
    limits = read_limits(tmp_path / "nothing")
    assert (limits.cpu_quota, limits.memory_bytes) == (None, None)
    assert limits.machine == socket.gethostname()


def test_physical_memory_and_machine(machine: Machine) -> None:
    limits = read_limits(machine.proc)
    assert (limits.cpu_quota, limits.memory_bytes) == (None, 1000 * 1024)
    assert limits.machine == "0d9d3c0e-7b5c-4d8e-9c0f-0123456789ab"


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="needs Linux")
def test_cores_are_those_of_the_process() -> None:
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {max(before)})
        assert read_limits().cores == (max(before),)
    finally:
        os.sched_setaffinity(0, before)
    assert read_limits().cores == tuple(sorted(before))


def test_version_2_counts_the_least_of_all_ancestors(machine: Machine) -> None:
    unified(machine, "/lab/worker/inner")
    machine.write("unified/lab/cpu.max", "50000 100000\n")
    machine.write("unified/lab/worker/cpu.max", "max 100000\n")
    machine.write("unified/lab/worker/memory.max", f"{300 * MB}\n")
    machine.write("unified/lab/worker/inner/cpu.max", "4000 5000\n")
    machine.write("unified/lab/worker/inner/memory.max", "max\n")
    machine.write("unified/lab/other/cpu.max", "1000 100000\n")
    limits = read_limits(machine.proc)
    assert (limits.cpu_quota, limits.memory_bytes) == (0.5, 300 * MB)


def test_a_quota_that_changes_is_seen(machine: Machine) -> None:
    unified(machine, "/")
    machine.write("unified/cpu.max", "max 100000")
    assert read_limits(machine.proc).cpu_quota is None
    machine.write("unified/cpu.max", "25000 100000")
    assert read_limits(machine.proc).cpu_quota == 0.25


def test_version_1(machine: Machine) -> None:
    machine.own_groups("5:memory:/a/b", "4:cpu,cpuacct:/c", "1:name=systemd:/", "0::/")
    machine.mount("cpu", "cgroup", "rw,cpu,cpuacct")
    machine.mount("memory", "cgroup", "rw,memory")
    machine.mount("unified", "cgroup2", "rw")
    machine.write("cpu/cpu.cfs_quota_us", "-1\n")
    machine.write("cpu/cpu.cfs_period_us", "100000\n")
    machine.write("cpu/c/cpu.cfs_quota_us", "150000\n")
    machine.write("cpu/c/cpu.cfs_period_us", "100000\n")
    machine.write("memory/memory.limit_in_bytes", f"{UNLIMITED_V1}\n")
    machine.write("memory/a/memory.limit_in_bytes", "700000\n")
    machine.write("memory/a/b/memory.limit_in_bytes", f"{UNLIMITED_V1}\n")
    limits = read_limits(machine.proc)
    assert (limits.cpu_quota, limits.memory_bytes) == (1.5, 700_000)


@pytest.mark.parametrize(
    ("path", "root"),
    [
        ("/docker/0123", "/docker/0123"),  # the host's hierarchy, mounted from our group on
        ("/", "/"),  # a namespace of control groups
        ("/docker/0123", "/"),  # a path as the host sees it, where it does not exist
        ("/", "/../.."),  # a mount of the host, seen from a namespace
        ("/../../other", "/"),  # a process that was moved out of its namespace
        ("/elsewhere", "/docker/0123"),
    ],
)
def test_in_containers_the_mount_is_ours(machine: Machine, path: str, root: str) -> None:
    unified(machine, path, root)
    machine.write("unified/cpu.max", "20000 100000")
    machine.write("unified/memory.max", str(64 * MB))
    machine.write("cpu.max", "1 100000")  # beside the mount
    limits = read_limits(machine.proc)
    assert (limits.cpu_quota, limits.memory_bytes) == (0.2, 64 * MB)


@pytest.mark.parametrize("text", ["", "max", "0 100000", "5000 0", "x y", "5000", "-1 100000"])
def test_a_quota_that_makes_no_sense_is_none(machine: Machine, text: str) -> None:
    unified(machine, "/")
    machine.write("unified/cpu.max", text)
    assert read_limits(machine.proc).cpu_quota is None


@pytest.mark.parametrize(
    "line", ["", "x", "30 22 0:26 / /x rw - cgroup", "- cgroup2", "a b c d e - cgroup2 x \\777"]
)
def test_mounts_that_make_no_sense_are_none(machine: Machine, line: str) -> None:
    machine.own_groups("0::/", ":", "x", "")
    machine.write("proc/self/mountinfo", line + "\n")
    assert read_limits(machine.proc).memory_bytes == 1000 * 1024


def test_memory_that_is_free(machine: Machine) -> None:
    assert available_bytes(machine.proc) is None
    machine.write("proc/meminfo", "MemTotal: 1000 kB\nMemAvailable:    300 kB\n")
    assert available_bytes(machine.proc) == (300 * 1024, 1000 * 1024)

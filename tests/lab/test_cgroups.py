"""Limits of CPU, memory and reading, on files like a kernel's and on the kernel itself."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from halo_edge.errors import HaloError
from halo_edge.lab.cgroups import Cgroup, Hierarchies, cpu_quota, remove_if_empty, remove_tree
from halo_edge.lab.disks import disk_under

GROUP = "halo-lab/test-cgroups"


def test_the_kernel_takes_no_quota_below_a_millisecond() -> None:
    assert cpu_quota(0.4) == pytest.approx((0.002, 0.005))
    assert cpu_quota(2) == pytest.approx((0.010, 0.005))
    assert cpu_quota(0.05) == pytest.approx((0.001, 0.020))


def test_version_1_is_found(tmp_path: Path) -> None:
    mounts = tmp_path / "mounts"
    mounts.write_text(
        "cgroup /c/cpu,cpuacct cgroup rw,cpu,cpuacct 0 0\n"
        "cgroup /c/memory cgroup rw,memory 0 0\n"
        f"cgroup2 {tmp_path} cgroup2 rw 0 0\n"  # without controllers of its own
    )
    cpu, memory, io = Path("/c/cpu,cpuacct"), Path("/c/memory"), Path("/c/blkio")
    assert Hierarchies.find(mounts) == Hierarchies(cpu, memory, False)
    mounts.write_text(mounts.read_text() + "cgroup /c/blkio cgroup rw,blkio 0 0\n")
    assert Hierarchies.find(mounts) == Hierarchies(cpu, memory, False, io)
    assert Hierarchies.find(mounts).roots == [cpu, memory, io]


def test_version_2_is_found(tmp_path: Path) -> None:
    mounts = tmp_path / "mounts"
    mounts.write_text(f"cgroup2 {tmp_path} cgroup2 rw 0 0\n")
    for controllers, io in [("cpuset cpu io memory pids", tmp_path), ("cpu memory", None)]:
        (tmp_path / "cgroup.controllers").write_text(controllers)
        assert Hierarchies.find(mounts) == Hierarchies(tmp_path, tmp_path, True, io)
        assert Hierarchies.find(mounts).roots == [tmp_path]


def test_no_controllers(tmp_path: Path) -> None:
    mounts = tmp_path / "mounts"
    mounts.write_text("cgroup /c/cpu cgroup rw,cpu 0 0\n")
    with pytest.raises(HaloError, match="no 'memory' cgroup controller"):
        Hierarchies.find(mounts)


def test_version_2_is_given_limits(tmp_path: Path) -> None:
    """What is written where; the directories stand in for the kernel's."""
    group = Cgroup(Hierarchies(tmp_path, tmp_path, True), "halo-lab/x")
    assert (tmp_path / "cgroup.subtree_control").read_text() == "+cpu +memory"
    assert (tmp_path / "halo-lab/cgroup.subtree_control").read_text() == "+cpu +memory"
    assert not (tmp_path / "halo-lab/x/cgroup.subtree_control").exists()  # it has processes
    group.limit_cpu(0.4)
    group.limit_memory(1 << 30)
    assert (tmp_path / "halo-lab/x/cpu.max").read_text() == "2000 5000"
    assert (tmp_path / "halo-lab/x/memory.max").read_text() == str(1 << 30)
    group.limit_cpu(None)
    assert (tmp_path / "halo-lab/x/cpu.max").read_text() == "max"
    with pytest.raises(HaloError, match="no blkio"):
        group.limit_storage("254:0", 4e7)


def test_version_2_is_given_a_disk_limit(tmp_path: Path) -> None:
    group = Cgroup(Hierarchies(tmp_path, tmp_path, True, tmp_path), "halo-lab/x")
    assert (tmp_path / "cgroup.subtree_control").read_text() == "+cpu +memory +io"
    assert group.procs_files == [str(tmp_path / "halo-lab/x/cgroup.procs")]
    group.limit_storage("254:0", 4e7)
    assert (tmp_path / "halo-lab/x/io.max").read_text() == "254:0 rbps=40000000"
    group.limit_storage("254:0", None)
    assert (tmp_path / "halo-lab/x/io.max").read_text() == "254:0 rbps=max"


def test_version_1_is_given_a_disk_limit(tmp_path: Path) -> None:
    roots = [tmp_path / name for name in ("cpu", "memory", "blkio")]
    group = Cgroup(Hierarchies(roots[0], roots[1], False, roots[2]), "halo-lab/x")
    assert group.procs_files == [str(root / "halo-lab/x/cgroup.procs") for root in roots]
    file = tmp_path / "blkio/halo-lab/x/blkio.throttle.read_bps_device"
    group.limit_storage("254:0", 4e7)
    assert file.read_text() == "254:0 40000000"
    group.limit_storage("254:0", None)
    assert file.read_text() == "254:0 0"
    assert not list((tmp_path / "cpu/halo-lab/x").iterdir())


@pytest.mark.parametrize(
    ("unified", "files"),
    [
        (True, {"memory.peak": "12345\n", "io.stat": "8:0 rbytes=1\n254:0 rbytes=678 wbytes=9\n"}),
        (
            False,
            {
                "memory.max_usage_in_bytes": "12345\n",
                "blkio.throttle.io_service_bytes": "254:0 Read 678\n254:0 Write 9\nTotal 687\n",
            },
        ),
    ],
)
def test_what_was_used(tmp_path: Path, unified: bool, files: dict[str, str]) -> None:
    group = Cgroup(Hierarchies(tmp_path, tmp_path, unified, tmp_path), "halo-lab/x")
    with pytest.raises(HaloError, match="cannot read"):
        group.memory_peak_bytes  # noqa: B018
    for name, text in files.items():
        (tmp_path / "halo-lab/x" / name).write_text(text)
    assert group.memory_peak_bytes == 12345
    assert group.storage_read_bytes("254:0") == 678
    assert group.storage_read_bytes("259:1") == 0


def test_what_was_read_is_not_counted_everywhere(tmp_path: Path) -> None:
    group = Cgroup(Hierarchies(tmp_path, tmp_path, True), "halo-lab/x")
    with pytest.raises(HaloError, match="no blkio"):
        group.storage_read_bytes("254:0")


def test_groups_of_all_hierarchies_are_removed(tmp_path: Path) -> None:
    """Also one that a killed lab has left in one of them only."""
    roots = [tmp_path / name for name in ("cpu", "memory", "blkio")]
    hierarchies = Hierarchies(roots[0], roots[1], False, roots[2])
    Cgroup(hierarchies, "halo-lab/x/n1")
    (roots[2] / "halo-lab/x/n2").mkdir()
    remove_tree(hierarchies, "halo-lab/x")
    remove_if_empty(hierarchies, "halo-lab")
    assert not any((root / "halo-lab").exists() for root in roots)


@pytest.fixture
def hierarchies(root_user: None) -> Iterator[Hierarchies]:
    try:
        found = Hierarchies.find()
        Cgroup(found, GROUP)
    except HaloError as error:
        pytest.skip(str(error))
    yield found
    remove_tree(found, GROUP)
    assert not any((root / GROUP).exists() for root in found.roots)


def test_a_process_in_the_group_gets_its_quota(hierarchies: Hierarchies) -> None:
    """Busy for a fixed time of CPU, it needs longer by the clock; a busy machine only adds."""
    group = Cgroup(hierarchies, f"{GROUP}/slow")
    group.limit_cpu(0.25)
    program = (
        "import sys, time\n"
        "for name in sys.argv[1:]: open(name, 'w').write('0')\n"
        "began, used = time.monotonic(), time.process_time()\n"
        "while time.process_time() < used + 0.1: pass\n"
        "print(time.monotonic() - began)"
    )
    command = [sys.executable, "-c", program, *group.procs_files]
    done = subprocess.run(command, capture_output=True, check=True, timeout=30)
    assert float(done.stdout) > 0.1 / 0.25 - 0.05


def test_the_memory_limit_is_set_and_lifted(hierarchies: Hierarchies) -> None:
    group = Cgroup(hierarchies, f"{GROUP}/small")
    name = "memory.max" if hierarchies.unified else "memory.limit_in_bytes"
    group.limit_memory(64 << 20)
    assert (hierarchies.memory / GROUP / "small" / name).read_text().strip() == str(64 << 20)
    group.limit_memory(None)
    assert (hierarchies.memory / GROUP / "small" / name).read_text().strip() != str(64 << 20)


def test_a_disk_is_read_at_its_limit(hierarchies: Hierarchies, tmp_path: Path) -> None:
    """The kernel lets a tenth of a second's worth through at once; a busy disk only adds."""
    if hierarchies.io is None:
        pytest.skip("this kernel has no blkio or io controller")
    try:
        disk = disk_under(tmp_path)
    except HaloError as error:
        pytest.skip(str(error))
    group = Cgroup(hierarchies, f"{GROUP}/reader")
    group.limit_storage(disk, 20e6)
    file = tmp_path / "file"
    file.write_bytes(bytes(8_000_000))
    program = (
        "import os, sys, time\n"
        "for name in sys.argv[2:]: open(name, 'w').write('0')\n"
        "file = os.open(sys.argv[1], os.O_RDONLY)\n"
        "os.fsync(file)\n"
        "os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)\n"
        "began = time.monotonic()\n"
        "while os.read(file, 1 << 20): pass\n"
        "print(time.monotonic() - began)"
    )
    command = [sys.executable, "-c", program, str(file), *group.procs_files]
    done = subprocess.run(command, capture_output=True, check=True, timeout=30)
    assert float(done.stdout) > 8 / 20 - 0.15
    assert 8_000_000 <= group.storage_read_bytes(disk) < 100_000_000
    assert group.memory_peak_bytes >= 1 << 20


def test_removing_a_group_ends_its_processes(hierarchies: Hierarchies) -> None:
    group = Cgroup(hierarchies, f"{GROUP}/busy")
    program = "import sys\nfor n in sys.argv[1:]: open(n, 'w').write('0')\nprint()\ninput()"
    command = [sys.executable, "-c", program, *group.procs_files]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert group.pids() == {process.pid}
        assert os.getpid() not in group.pids()
        group.remove()
        assert process.wait(10) == -9

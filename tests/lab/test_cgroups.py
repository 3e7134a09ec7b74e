"""CPU quotas and memory limits, on files that look like a kernel's and on the kernel itself."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from halo_edge.errors import HaloError
from halo_edge.lab.cgroups import Cgroup, Hierarchies, cpu_quota, remove_tree

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
    assert Hierarchies.find(mounts) == Hierarchies(Path("/c/cpu,cpuacct"), Path("/c/memory"), False)


def test_version_2_is_found(tmp_path: Path) -> None:
    (tmp_path / "cgroup.controllers").write_text("cpuset cpu io memory pids\n")
    mounts = tmp_path / "mounts"
    mounts.write_text(f"cgroup2 {tmp_path} cgroup2 rw 0 0\n")
    assert Hierarchies.find(mounts) == Hierarchies(tmp_path, tmp_path, True)


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


@pytest.fixture
def hierarchies(root_user: None) -> Iterator[Hierarchies]:
    try:
        found = Hierarchies.find()
        Cgroup(found, GROUP)
    except HaloError as error:
        pytest.skip(str(error))
    yield found
    remove_tree(found, GROUP)
    assert not (found.cpu / GROUP).exists()
    assert not (found.memory / GROUP).exists()


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

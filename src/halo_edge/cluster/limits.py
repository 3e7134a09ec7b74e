"""What this process may use of the machine it runs on: CPU time, memory, cores.

Linux says so in files: those of the control groups the process is in, of either version, and of
`/proc`. Quotas change while a process runs, so nothing is remembered. A file that is missing or
makes no sense is no limit: elsewhere than on Linux there are none but the number of cores.
"""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

PROC: Final = Path("/proc")
# How `/proc/self/cgroup` names the one hierarchy of version 2; those of version 1 have names.
_VERSION_2: Final = ""
_MAX_BYTES: Final = 1 << 20
_ESCAPED: Final = re.compile(r"\\([0-7]{3})")


@dataclass(frozen=True)
class Limits:
    """`cpu_quota`: CPU time a second, in cores; None: as much as there is. `memory_bytes`: None
    where nobody says. `cores`: on which the calling thread may run. `machine`: equal for the
    processes of one machine, containers or not, and different for others."""

    cpu_quota: float | None
    memory_bytes: int | None
    cores: tuple[int, ...]
    machine: str


def read_limits(proc: Path = PROC) -> Limits:
    """As they are now; takes about a millisecond. `proc`: where procfs is mounted."""
    quotas: list[float | None] = []
    memory = [_physical_bytes(proc)]
    for controller, group in _own_groups(proc):
        if controller == _VERSION_2:
            quotas.append(_ratio(*_read(group / "cpu.max").partition(" ")[::2]))
            memory.append(_number(_read(group / "memory.max")))
        elif controller == "cpu":
            period = _read(group / "cpu.cfs_period_us")
            quotas.append(_ratio(_read(group / "cpu.cfs_quota_us"), period))
        else:  # where there is no limit, it is some 2^63: no less than any machine's memory
            memory.append(_number(_read(group / "memory.limit_in_bytes")))
    return Limits(
        cpu_quota=min((quota for quota in quotas if quota is not None), default=None),
        memory_bytes=min((limit for limit in memory if limit is not None), default=None),
        cores=_cores(),
        machine=_read(proc / "sys/kernel/random/boot_id") or socket.gethostname(),
    )


def available_bytes(proc: Path = PROC) -> tuple[int, int] | None:
    """How much memory new things may use before others' is swapped out, by the kernel's estimate,
    and how much this machine has; None where nobody says."""
    found = re.search(r"^MemAvailable:\s*(\d{1,15}) kB$", _read(proc / "meminfo"), re.MULTILINE)
    physical = _physical_bytes(proc)
    return (int(found[1]) * 1024, physical) if found and physical is not None else None


def _own_groups(proc: Path) -> Iterator[tuple[str, Path]]:
    """The directories of the control groups this process is in, with all that they lie in: what a
    group may use is also what those may use. Each with its controller.

    See cgroups(7), and proc_pid_mountinfo(5) for the fields of a mount.
    """
    own = dict(_controllers_and_paths(_read(proc / "self/cgroup")))
    for line in _read(proc / "self/mountinfo").splitlines():
        before, _, after = line.partition(" - ")
        mount, what = before.split(), after.split()
        if len(mount) < 5 or len(what) < 3 or what[0] not in ("cgroup", "cgroup2"):
            continue
        top = Path(_unescaped(mount[4]))
        for controller in [_VERSION_2] if what[0] == "cgroup2" else what[2].split(","):
            if controller in own:
                below = _below(own[controller], _unescaped(mount[3]))
                for directory in (below, *below.parents):
                    yield controller, top / directory


def _controllers_and_paths(text: str) -> Iterator[tuple[str, str]]:
    """Those that limit us, of `/proc/self/cgroup`: lines such as `4:cpu,cpuacct:/a/b`, or
    `0::/a/b` in version 2."""
    for line in text.splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        for controller in controllers.split(","):
            if controller in ("cpu", "memory", _VERSION_2):
                yield controller, path


def _below(path: str, root: str) -> Path:
    """A group's path below a mount that shows the hierarchy from its group `root` on.

    In a container the two may have been written from different points of view; then the mount's
    own directory is all that is known to be ours.
    """
    below = Path(os.path.relpath(path or "/", root or "/"))
    return Path() if ".." in below.parts or ".." in path.split("/") else below


def _physical_bytes(proc: Path) -> int | None:
    found = re.search(r"^MemTotal:\s*(\d{1,15}) kB$", _read(proc / "meminfo"), re.MULTILINE)
    return int(found[1]) * 1024 if found else None


def _cores() -> tuple[int, ...]:
    try:
        return tuple(sorted(os.sched_getaffinity(0)))
    except (AttributeError, OSError):  # not Linux
        return tuple(range(os.cpu_count() or 1))


def _ratio(quota_us: str, period_us: str) -> float | None:
    """A quota in cores; None for none ("max", -1), or what makes no sense."""
    quota, period = _number(quota_us), _number(period_us)
    return quota / period if quota and period else None


def _number(text: str) -> int | None:
    """None for what is no number of 0 or more: "max", "-1", nothing."""
    return int(text) if text.isascii() and text.isdigit() and len(text) < 20 else None


def _read(path: Path) -> str:
    """Nothing if it cannot be read."""
    try:
        with path.open("rb", buffering=0) as file:
            return file.read(_MAX_BYTES).decode(errors="replace").strip()
    except (OSError, ValueError):  # ValueError: a path of mountinfo with a zero byte
        return ""


def _unescaped(field: str) -> str:
    """A field of mountinfo, in which a space is written `\\040`."""
    return _ESCAPED.sub(lambda found: chr(int(found[1], 8)), field)

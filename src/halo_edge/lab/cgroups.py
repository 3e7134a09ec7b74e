"""A device's limits of CPU, memory and reading: control groups, version 1 or 2, whichever is there.

A group also knows its processes, so that nothing of a lab outlives it. Nothing here knows of labs.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from halo_edge.errors import HaloError

# The share of a core is used up and waited for within this time: short against a token, and what
# a slow device computes in between looks even. The kernel takes no quota below a millisecond.
PERIOD_S: Final = 0.005
MIN_QUOTA_S: Final = 0.001
UNLIMITED_V1_BYTES: Final = 1 << 62
END_TIMEOUT_S: Final = 5.0


def cpu_quota(speed: float) -> tuple[float, float]:
    """For `speed` cores: the seconds of CPU time in each period, and the period, in seconds."""
    period_s = max(PERIOD_S, MIN_QUOTA_S / speed)
    return speed * period_s, period_s


@dataclass(frozen=True)
class Hierarchies:
    """Where groups are made; in version 2 one directory is all of it. `io`: None where reading
    cannot be limited."""

    cpu: Path
    memory: Path
    unified: bool
    io: Path | None = None

    @property
    def roots(self) -> list[Path]:
        """Each directory once."""
        found = (self.cpu, self.memory, self.io)
        return list(dict.fromkeys(root for root in found if root is not None))

    @classmethod
    def find(cls, mounts: Path = Path("/proc/mounts")) -> Hierarchies:
        """Raises `HaloError` where there is neither version with CPU and memory controllers."""
        version_1: dict[str, Path] = {}
        for line in mounts.read_text().splitlines():
            _, mount_point, kind, options, *_ = line.split()
            if kind == "cgroup2":
                with contextlib.suppress(OSError):
                    controllers = (Path(mount_point) / "cgroup.controllers").read_text().split()
                    if {"cpu", "memory"} <= set(controllers):
                        root = Path(mount_point)
                        return cls(root, root, True, root if "io" in controllers else None)
            elif kind == "cgroup":
                for controller in options.split(","):
                    version_1.setdefault(controller, Path(mount_point))
        try:
            return cls(version_1["cpu"], version_1["memory"], False, version_1.get("blkio"))
        except KeyError as missing:
            raise HaloError(
                f"this kernel offers no {missing} cgroup controller; the lab needs cpu and memory"
            ) from None


class Cgroup:
    """A group of processes at `path` (e.g. `halo-lab/NAME/DEVICE`), made if it is not there."""

    def __init__(self, hierarchies: Hierarchies, path: str) -> None:
        """Raises `HaloError` where groups may not be made."""
        self._hierarchies = hierarchies
        self._cpu, self._memory = hierarchies.cpu / path, hierarchies.memory / path
        self._directories = [root / path for root in hierarchies.roots]
        self._io = None if hierarchies.io is None else hierarchies.io / path
        try:
            for directory in self._directories:
                directory.mkdir(parents=True, exist_ok=True)
            if hierarchies.unified:
                self._pass_controllers_down(Path(path))
        except OSError as error:
            raise HaloError(f"cannot make the cgroup {path}: {error.strerror}") from None

    @property
    def procs_files(self) -> list[str]:
        """What a process writes "0" into, to belong to the group."""
        return [str(directory / "cgroup.procs") for directory in self._directories]

    def limit_cpu(self, speed: float | None) -> None:
        """`speed`: CPU time a second, in cores; None: as much as there is."""
        if speed is None:
            self._write(self._cpu, "cpu.max" if self._unified else "cpu.cfs_quota_us", self._no_cpu)
            return
        quota_s, period_s = cpu_quota(speed)
        quota_us, period_us = round(quota_s * 1e6), round(period_s * 1e6)
        if self._unified:
            self._write(self._cpu, "cpu.max", f"{quota_us} {period_us}")
        else:  # no quota while the period changes, or the pair may be refused
            self._write(self._cpu, "cpu.cfs_quota_us", self._no_cpu)
            self._write(self._cpu, "cpu.cfs_period_us", str(period_us))
            self._write(self._cpu, "cpu.cfs_quota_us", str(quota_us))

    def limit_memory(self, nbytes: int | None) -> None:
        """None: as much as there is."""
        if self._unified:
            self._write(self._memory, "memory.max", "max" if nbytes is None else str(nbytes))
        else:
            limit = UNLIMITED_V1_BYTES if nbytes is None else nbytes
            self._write(self._memory, "memory.limit_in_bytes", str(limit))

    def limit_storage(self, disk: str, bytes_per_s: float | None) -> None:
        """What it may read from a whole block device, `disk` (MAJOR:MINOR), the page cache not
        counted; None: as much as that gives.

        Raises `HaloError` also where the kernel cannot limit it.
        """
        if self._io is None:
            raise HaloError("this kernel offers no blkio (or io) cgroup controller")
        rate = None if bytes_per_s is None else max(1, round(bytes_per_s))
        if self._unified:
            self._write(self._io, "io.max", f"{disk} rbps={'max' if rate is None else rate}")
        else:
            self._write(self._io, "blkio.throttle.read_bps_device", f"{disk} {rate or 0}")

    @property
    def memory_peak_bytes(self) -> int:
        """The most that was in use at once so far, the page cache counted. Raises `HaloError` where
        the kernel does not say."""
        name = "memory.peak" if self._unified else "memory.max_usage_in_bytes"
        return int(self._read(self._memory, name))

    def storage_read_bytes(self, disk: str) -> int:
        """Read so far from a whole block device, `disk` (MAJOR:MINOR). Raises `HaloError`, also
        where the kernel does not count it."""
        if self._io is None:
            raise HaloError("this kernel offers no blkio (or io) cgroup controller")
        name = "io.stat" if self._unified else "blkio.throttle.io_service_bytes"
        found = re.search(
            rf"^{disk} (?:.*\brbytes=|Read )(\d+)", self._read(self._io, name), re.MULTILINE
        )
        return int(found[1]) if found else 0

    def pids(self) -> set[int]:
        found: set[int] = set()
        for directory in self._directories:
            with contextlib.suppress(OSError):
                found.update(map(int, (directory / "cgroup.procs").read_text().split()))
        return found

    def remove(self) -> None:
        """End what is still in it, and take it away. Raises `HaloError` if that takes too long."""
        deadline = time.monotonic() + END_TIMEOUT_S
        while True:
            for pid in self.pids():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            if all(_removed(directory) for directory in self._directories):
                return
            if time.monotonic() > deadline:
                raise HaloError(f"the processes {self.pids()} in cgroup {self._cpu} do not end")
            time.sleep(0.01)

    @property
    def _unified(self) -> bool:
        return self._hierarchies.unified

    @property
    def _no_cpu(self) -> str:
        return "max" if self._unified else "-1"

    def _pass_controllers_down(self, path: Path) -> None:
        parent, io = self._hierarchies.cpu, "" if self._io is None else " +io"
        for part in path.parts:
            (parent / "cgroup.subtree_control").write_text(f"+cpu +memory{io}")
            parent /= part

    def _read(self, directory: Path, name: str) -> str:
        try:
            return (directory / name).read_text()
        except OSError as error:
            raise HaloError(f"cannot read {directory / name}: {error.strerror}") from None

    def _write(self, directory: Path, name: str, value: str) -> None:
        try:
            (directory / name).write_text(value)
        except OSError as error:
            raise HaloError(f"cannot set {directory / name} to {value}: {error.strerror}") from None


def remove_tree(hierarchies: Hierarchies, path: str) -> None:
    """Take away the group at `path` and those directly below it, with their processes."""
    below = {d.name for root in hierarchies.roots for d in _children(root / path)}
    for name in sorted(below):
        Cgroup(hierarchies, f"{path}/{name}").remove()
    if any((root / path).exists() for root in hierarchies.roots):
        Cgroup(hierarchies, path).remove()


def remove_if_empty(hierarchies: Hierarchies, path: str) -> None:
    """Take away the group at `path` unless something is in it."""
    for root in hierarchies.roots:
        _removed(root / path)


def _children(directory: Path) -> list[Path]:
    return [d for d in directory.iterdir() if d.is_dir()] if directory.exists() else []


def _removed(directory: Path) -> bool:
    try:
        directory.rmdir()
    except FileNotFoundError:
        return True
    except OSError:  # a process of it is not quite gone yet
        return False
    return True

"""The labs of this machine, seen from any process: who owns a name, and how to enter, change and
end a lab that another process has up.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Final

from halo_edge.errors import HaloError
from halo_edge.lab import namespaces
from halo_edge.lab.cgroups import Cgroup, Hierarchies, remove_if_empty, remove_tree
from halo_edge.lab.enter import Entry
from halo_edge.lab.fabrics import running_fabric
from halo_edge.lab.link import LinkSettings
from halo_edge.lab.names import CGROUP, RUN_DIRECTORY, LabNames
from halo_edge.lab.spec import LabSpec

END_TIMEOUT_S: Final = 20.0
POLL_S: Final = 0.02


@contextmanager
def owned(name: str) -> Iterator[None]:
    """Own a lab's name. The kernel lets go of it when this process ends, however it ends.

    Raises `HaloError` while another process owns it.
    """
    names = LabNames(name)
    names.directory.mkdir(parents=True, exist_ok=True)
    with names.lock.open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise HaloError(f"lab {name} is up already; `halo lab down {name}` ends it") from None
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        _clear(names)
        try:
            yield
        finally:
            shutil.rmtree(names.directory, ignore_errors=True)


def _clear(names: LabNames) -> None:
    """Take away what an owner that was killed has left in the directory: a socket's path, once
    bound, is in use for ever."""
    for left in names.directory.iterdir():
        if left == names.lock:
            continue
        if left.is_dir() and not left.is_symlink():
            shutil.rmtree(left, ignore_errors=True)
        else:
            left.unlink(missing_ok=True)


def is_up(name: str) -> bool:
    """Whether some process owns this name."""
    with contextlib.suppress(FileNotFoundError), LabNames(name).lock.open() as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def labs() -> list[str]:
    """The names of the labs that are up, or of which something is left."""
    if not RUN_DIRECTORY.is_dir():
        return []
    return sorted(path.name for path in RUN_DIRECTORY.iterdir())


def sweep(name: str, hierarchies: Hierarchies) -> None:
    """Take away everything a lab of this name has made but its directory: its processes first."""
    names = LabNames(name)
    remove_tree(hierarchies, names.cgroup())
    remove_if_empty(hierarchies, CGROUP)
    for namespace in namespaces.existing(names.namespace("")):
        namespaces.remove(namespace)


def take_down(name: str) -> None:
    """End a lab, whether its owner lives or was killed.

    Raises `HaloError` if that takes too long.
    """
    deadline = time.monotonic() + END_TIMEOUT_S
    number = signal.SIGTERM
    while is_up(name):
        with contextlib.suppress(FileNotFoundError, ValueError, ProcessLookupError):
            os.kill(int(LabNames(name).lock.read_text()), number)
        half = time.monotonic() + END_TIMEOUT_S / 2
        while is_up(name) and time.monotonic() < half:
            time.sleep(POLL_S)
        number = signal.SIGKILL
        if time.monotonic() > deadline:
            raise HaloError(f"lab {name} does not end; see what keeps its owner")
    with owned(name):
        sweep(name, Hierarchies.find())


def entry(spec: LabSpec, device: str) -> Entry:
    """The way onto a device of a lab that is up, for a process that lives on its own."""
    names = LabNames(spec.name)
    group = Cgroup(Hierarchies.find(), names.cgroup(device))
    return names.entry(device, group, spec.device(device).cores, None)


def change(
    spec: LabSpec,
    device: str,
    *,
    settings: LinkSettings | None = None,
    cut: bool | None = None,
    speed: float | None = None,
) -> None:
    """Change a device of a lab that is up: its link's settings, whether it is cut, its CPU quota.

    Raises `HaloError` where the lab is not up or has no such device.
    """
    spec.device(device)
    if not is_up(spec.name):
        raise HaloError(f"lab {spec.name} is not up; `halo lab up {spec.name}` starts it")
    if speed is not None:
        Cgroup(Hierarchies.find(), LabNames(spec.name).cgroup(device)).limit_cpu(speed)
    if settings is not None or cut is not None:
        with running_fabric(spec, LabNames(spec.name)) as fabric:
            up, down = fabric.links()[device]
            if settings is not None:
                up, down = replace(settings, cut=up.cut), replace(settings, cut=down.cut)
            if cut is not None:
                up, down = replace(up, cut=cut), replace(down, cut=cut)
            fabric.set_link(device, up, down)

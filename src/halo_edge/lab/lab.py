"""A virtual cluster with real packets: for each device a network namespace and a cgroup.

    with Lab(read_spec("pi4-wifi"), print) as lab:
        lab.start_workers()
        lab.spawn(lab.spec.root.name, ["halo", "run", "..."], env=lab.environment())

Everything it makes bears its name, so that `sweep` can take away what a killed lab left behind.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from halo_edge.cluster.worker_process import WorkerStart
from halo_edge.errors import HaloError
from halo_edge.lab import namespaces
from halo_edge.lab.cgroups import Cgroup, Hierarchies
from halo_edge.lab.disks import disk_under
from halo_edge.lab.fabric import DeviceCounters, Fabric
from halo_edge.lab.fabrics import open_fabric
from halo_edge.lab.link import LinkSettings
from halo_edge.lab.names import LabNames
from halo_edge.lab.own_caches import OwnCaches, own_caches
from halo_edge.lab.running import owned, sweep
from halo_edge.lab.spec import Action, Event, LabSpec
from halo_edge.model.cache import user_shards

CONTROL_PORT: Final = 7447
READY_LINE: Final = "waiting for a root"
START_TIMEOUT_S: Final = 120.0  # an interpreter on a twentieth of a core takes its time
END_TIMEOUT_S: Final = 3.0
POLL_S: Final = 0.02


@dataclass(frozen=True)
class DeviceUsage:
    """`memory_peak_bytes`: the most at once, the page cache counted. `storage_read_bytes`: from the
    disk under the user's cache."""

    memory_peak_bytes: int
    storage_read_bytes: int


class Lab:
    """The cluster, from construction to `close`. Use as a context manager, from one thread.

    It ends with this process: the kernel kills every process of it, and `sweep` takes away the
    rest.
    """

    def __init__(self, spec: LabSpec, tell: Callable[[str], None] = lambda _: None) -> None:
        """`tell` is given a line now and then. Raises `HaloError` where a lab is not possible, or
        one of this name is up."""
        check_possible()
        _check_cores(spec)
        self.spec = spec
        self._tell = tell
        self._names = LabNames(spec.name)
        self._workers: dict[str, subprocess.Popen[bytes]] = {}
        self._caches: OwnCaches | None = None
        self._hierarchies = Hierarchies.find()
        self._stack = ExitStack()
        try:
            self._up()
        except BaseException:
            self.close()
            raise

    def _up(self) -> None:
        spec, names, stack = self.spec, self._names, self._stack
        stack.enter_context(owned(spec.name))
        sweep(spec.name, self._hierarchies)
        stack.callback(sweep, spec.name, self._hierarchies)
        names.hosts.write_text(
            "127.0.0.1 localhost\n"
            + "".join(f"{names.address(i)} {d.name}\n" for i, d in enumerate(spec.machines))
        )
        self._cgroups = {}
        for device in spec.machines:
            namespaces.create(names.namespace(device.name))
            group = Cgroup(self._hierarchies, names.cgroup(device.name))
            group.limit_cpu(device.speed)
            group.limit_memory(device.memory_bytes)
            self._cgroups[device.name] = group
        self._limit_storage()
        if spec.own_caches:
            self._caches = stack.enter_context(own_caches(spec.name, spec.root.name))
        self._fabric: Fabric = stack.enter_context(open_fabric(spec, names))
        for device in spec.machines:
            namespaces.configure(
                names.namespace(device.name),
                names.interface,
                names.addresses(spec)[device.name],
                names.prefix_length,
                names.neighbours(spec, device.name),
            )
        self._tell(f"lab {spec.name}: {len(spec.devices)} devices, {self._fabric.describe()}")

    def _limit_storage(self) -> None:
        """Of the devices that say how fast theirs is, where that is possible."""
        limited = [
            device for device in self.spec.machines if device.storage_bytes_per_s is not None
        ]
        try:
            disk = disk_under(user_shards()) if limited else ""
            for device in limited:
                self._cgroups[device.name].limit_storage(disk, device.storage_bytes_per_s)
        except HaloError as error:
            self._tell(f"lab {self.spec.name}: storage_mb_s is for plans only, as {error}")

    def environment(self) -> dict[str, str]:
        """What a root's process finds the workers by, and the way to this installation's `halo`."""
        names = self._names
        endpoints = [f"tcp/{names.address(i + 1)}:{CONTROL_PORT}" for i in range(len(self._others))]
        path = f"{Path(sys.executable).parent}:{os.environ.get('PATH', os.defpath)}"
        environment = os.environ | {
            "PATH": path,
            "HALO_CLUSTER": self.spec.name,
            "HALO_CONNECT": " ".join(endpoints),
            "HALO_WORKERS": str(len(endpoints)),
            "HALO_THREADS": str(self.spec.root.threads),
        }
        if self._caches is not None:
            environment["HALO_EDGE_CACHE"] = str(self._caches.cache(self.spec.root.name))
        return environment

    def spawn(self, device: str, command: Sequence[str], **popen: Any) -> subprocess.Popen[Any]:
        """Start a command on a device: its network, CPU, memory and cores. It ends with the lab.

        `popen` goes to `subprocess.Popen`. Raises `HaloError` where there is no such device.
        """
        cores = self.spec.device(device).cores
        entry = self._names.entry(device, self._cgroups[device], cores, os.getpid())
        return subprocess.Popen(entry.command(list(command)), **popen)

    def start_workers(self) -> None:
        """Start a worker on every device but the root, and wait until all are ready.

        Raises `HaloError` for one that ends or takes too long.
        """
        for device in self._others:
            self._start_worker(device)
        deadline = time.monotonic() + START_TIMEOUT_S
        for device in self._others:
            while READY_LINE not in self._log(device):
                self.check()
                if time.monotonic() > deadline:
                    raise HaloError(
                        f"the worker on {device} is not ready in {START_TIMEOUT_S:.0f} s"
                    )
                time.sleep(POLL_S)

    def check(self) -> None:
        """Raises `HaloError` for a worker that has ended by itself, with its last words."""
        for device, process in self._workers.items():
            if process.poll() is not None:
                words = self._log(device).strip().splitlines() or [f"status {process.returncode}"]
                raise HaloError(f"the worker on {device} has ended: {words[-1][:300]}")

    def act(self, event: Event) -> None:
        """Let an event happen now. Raises `HaloError` where it cannot."""
        device, action = event.device, event.action
        up, down = self.links[device]
        if action is Action.SPEED:
            self._cgroups[device].limit_cpu(event.speed)
        elif action is Action.LINK:
            assert event.link is not None
            self.set_link(
                device, replace(event.link, cut=up.cut), replace(event.link, cut=down.cut)
            )
        elif action in (Action.CUT, Action.JOIN):
            cut = action is Action.CUT
            self.set_link(device, replace(up, cut=cut), replace(down, cut=cut))
        elif action is Action.RESTART:
            self._end_worker(device)
            self._start_worker(device)
        elif action is Action.KILL:
            self._end_worker(device)
        elif device in self._workers:
            stop = action is Action.STOP
            self._workers[device].send_signal(signal.SIGSTOP if stop else signal.SIGCONT)

    def run(self, command: Sequence[str], device: str | None = None) -> int:
        """Run a command to its end, by default on the root, while the events happen.

        Its exit status, as a shell gives it. Ctrl-C reaches the command, which decides what it
        means.
        """
        process = self.spawn(device or self.spec.root.name, command, env=self.environment())
        began = time.monotonic()
        events = list(self.spec.events)
        while True:
            wait_s = events[0].at_s + began - time.monotonic() if events else None
            try:
                status = process.wait(None if wait_s is None else max(0.0, wait_s))
                return status if status >= 0 else 128 - status
            except subprocess.TimeoutExpired:
                self._happen(events.pop(0))
            except KeyboardInterrupt:
                continue

    def stay(self) -> None:
        """Let the events happen, and wait until KeyboardInterrupt."""
        began = time.monotonic()
        for event in self.spec.events:
            time.sleep(max(0.0, event.at_s + began - time.monotonic()))
            self._happen(event)
        signal.pause()

    def _happen(self, event: Event) -> None:
        self._tell(f"{event.at_s:g} s: {event.action} {event.device}")
        self.act(event)

    def set_link(self, device: str, up: LinkSettings, down: LinkSettings) -> None:
        """Give a device's link other settings, from it and to it, from now on."""
        self._fabric.set_link(self.spec.device(device).name, up, down)

    @property
    def links(self) -> dict[str, tuple[LinkSettings, LinkSettings]]:
        """Each device's settings now: from it, to it."""
        return self._fabric.links()

    def counters(self) -> dict[str, DeviceCounters]:
        """What has passed each device's link so far."""
        return self._fabric.counters()

    def usage(self, device: str) -> DeviceUsage:
        """What a device has used so far. Raises `HaloError` where the kernel does not say."""
        group = self._cgroups[device]
        disk = disk_under(user_shards())
        return DeviceUsage(group.memory_peak_bytes, group.storage_read_bytes(disk))

    def warnings(self) -> list[str]:
        """Reasons to distrust what was measured in this lab, one line each."""
        return self._fabric.warnings()

    def close(self) -> None:
        """Take everything away."""
        for device in list(self._workers):
            self._end_worker(device)
        self._stack.close()

    def __enter__(self) -> Lab:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def _others(self) -> list[str]:
        return [device.name for device in self.spec.workers]

    def _start_worker(self, device: str) -> None:
        address = self._names.addresses(self.spec)[device]
        start = WorkerStart(
            cluster=self.spec.name,
            listen=[f"tcp/{address}:{CONTROL_PORT}"],
            multicast=False,
            name=device,
            address=address,
            threads=self.spec.device(device).threads,
            cache=str(user_shards() if self._caches is None else self._caches.shards(device)),
        )
        with self._names.log(device).open("wb") as log:
            self._workers[device] = self.spawn(
                device,
                start.command(),
                env=start.environment(),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for the command in the foreground
            )

    def _end_worker(self, device: str) -> None:
        process = self._workers.pop(device, None)
        if process is not None:
            process.kill()
            process.wait(END_TIMEOUT_S)

    def _log(self, device: str) -> str:
        return self._names.log(device).read_text(errors="replace")


def _check_cores(spec: LabSpec) -> None:
    allowed = os.sched_getaffinity(0)
    for device in spec.machines:
        if not set(device.cores) <= allowed:
            raise HaloError(
                f"device {device.name} of lab {spec.name} is for the cores {list(device.cores)}, "
                f"but this machine has {sorted(allowed)}"
            )


def check_possible() -> None:
    """Raises `HaloError` where there can be no lab, with what to do instead."""
    instead = "without it, `halo run --impair loss=0.05,delay_ms=1` makes the root's link bad"
    if sys.platform != "linux":
        raise HaloError(f"the lab needs Linux and root; {instead}")
    if os.geteuid() != 0:
        raise HaloError(f"the lab needs root, for network namespaces and cgroups; {instead}")

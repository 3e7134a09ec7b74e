"""Links made by the forwarder, a process beside the lab that every packet passes through."""

from __future__ import annotations

import os
import select
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from halo_edge.errors import HaloError
from halo_edge.lab.fabric import DeviceCounters
from halo_edge.lab.forwarder import LATE_S, READY, ForwarderStart, PortStart
from halo_edge.lab.forwarder_control import Ask, ForwarderClient, SetLink
from halo_edge.lab.link import LinkSettings
from halo_edge.lab.names import LabNames
from halo_edge.lab.namespaces import frames_dropped
from halo_edge.lab.spec import LabSpec

START_TIMEOUT_S: Final = 20.0
END_TIMEOUT_S: Final = 5.0
# Beyond these the forwarder, and not the links, decides what is measured.
MAX_LATE_SHARE: Final = 0.01
MAX_BUSY: Final = 0.8


class ForwarderFabric:
    """A `Fabric`, over a forwarder that runs already."""

    def __init__(self, spec: LabSpec, names: LabNames) -> None:
        self._spec = spec
        self._names = names
        self._client = ForwarderClient(names.control)

    def describe(self) -> str:
        return "links by a forwarder of every packet"

    def links(self) -> dict[str, tuple[LinkSettings, LinkSettings]]:
        devices = self._client.ask(Ask()).devices
        return {name: (status.up, status.down) for name, status in devices.items()}

    def set_link(self, device: str, up: LinkSettings, down: LinkSettings) -> None:
        self._client.ask(SetLink(device, up, down))

    def counters(self) -> dict[str, DeviceCounters]:
        devices = self._client.ask(Ask()).devices
        return {
            name: DeviceCounters(status.up_counters, status.down_counters)
            for name, status in devices.items()
        }

    def warnings(self) -> list[str]:
        status, found = self._client.ask(Ask()), []
        if status.late > MAX_LATE_SHARE * status.frames:
            found.append(
                f"{status.late:,} of {status.frames:,} packets were forwarded over "
                f"{LATE_S * 1e3:.0f} ms late (worst: {status.worst_late_s * 1e3:.0f} ms): this "
                f"machine is too busy for the lab's delays"
            )
        if status.busy > MAX_BUSY:
            found.append(
                f"the forwarder used {status.busy:.0%} of a core: it, and not the links, may set "
                f"the pace"
            )
        if status.overflowed:
            found.append(f"the forwarder had no memory for {status.overflowed:,} packets")
        names = self._names
        for device in self._spec.devices:
            dropped = frames_dropped(names.namespace(device.name), names.interface)
            if dropped:
                found.append(
                    f"{dropped:,} packets of {device.name} were lost because the forwarder did not "
                    f"keep up"
                )
        return found

    def close(self) -> None:
        self._client.close()


def _cores(spec: LabSpec) -> list[int]:
    """Those that no device is pinned to, or all if there are none."""
    allowed = os.sched_getaffinity(0)
    pinned = {core for device in spec.devices for core in device.cores}
    return sorted(allowed - pinned or allowed)


@contextmanager
def started_forwarder(spec: LabSpec, names: LabNames) -> Iterator[ForwarderFabric]:
    """Start a forwarder, which makes every device's interface. Raises `HaloError`."""
    start = ForwarderStart(
        seed=spec.seed,
        interface=names.interface,
        ports=[
            PortStart(d.name, names.namespace(d.name), names.mac(i), d.up, d.down)
            for i, d in enumerate(spec.devices)
        ],
        control=str(names.control),
        cores=_cores(spec),
        parent=os.getpid(),
    )
    process = subprocess.Popen(
        start.command(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None and process.stderr is not None
        readable, _, _ = select.select([process.stdout], (), (), START_TIMEOUT_S)
        if not readable or process.stdout.readline().strip() != READY:
            process.kill()
            reason = process.stderr.read().strip().splitlines() or ["it did not start"]
            raise HaloError(f"the lab's forwarder: {reason[-1].removeprefix('halo: ')}")
        fabric = ForwarderFabric(spec, names)
        try:
            yield fabric
        finally:
            fabric.close()
    finally:
        process.terminate()
        try:
            process.communicate(timeout=END_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()

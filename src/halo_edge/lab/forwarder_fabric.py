"""Links made by the forwarder, a process beside the lab that every packet passes through."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Final

from halo_edge.lab.forwarder import LATE_S, ForwarderStart, PortStart
from halo_edge.lab.forwarder_control import Status
from halo_edge.lab.links_process import ProcessFabric, started
from halo_edge.lab.names import LabNames
from halo_edge.lab.namespaces import frames_dropped
from halo_edge.lab.spec import LabSpec

# Beyond these the forwarder, and not the links, decides what is measured.
MAX_LATE_SHARE: Final = 0.01
MAX_BEHIND: Final = 0.1


class ForwarderFabric(ProcessFabric):
    """A `Fabric`, over a forwarder that runs already."""

    def __init__(self, spec: LabSpec, names: LabNames) -> None:
        super().__init__(names.control)
        self._spec = spec
        self._names = names

    def describe(self) -> str:
        return "links by a forwarder of every packet"

    def warnings(self) -> list[str]:
        found, names = complaints(self.status()), self._names
        for device in self._spec.machines:
            dropped = frames_dropped(names.namespace(device.name), names.interface)
            if dropped:
                found.append(
                    f"{dropped:,} packets of {device.name} were lost because the forwarder did not "
                    f"keep up"
                )
        return found


def complaints(status: Status) -> list[str]:
    """Why a forwarder in this state is not to be trusted, one line each."""
    found = []
    if status.late > MAX_LATE_SHARE * status.frames:
        found.append(
            f"{status.late:,} of {status.frames:,} packets were forwarded over "
            f"{LATE_S * 1e3:.0f} ms late (worst: {status.worst_late_s * 1e3:.0f} ms): this "
            f"machine is too busy for the lab's delays"
        )
    elapsed_s = status.cpu_s / status.busy if status.busy else math.inf
    if status.behind_s > MAX_BEHIND * elapsed_s:
        found.append(
            f"packets waited for the forwarder in {status.behind_s / elapsed_s:.0%} of the time: "
            f"it, and not the links, may have set the pace"
        )
    if status.overflowed:
        found.append(f"the forwarder had no memory for {status.overflowed:,} packets")
    return found


def _cores(spec: LabSpec) -> list[int]:
    """Those that no device is pinned to, or all if there are none."""
    allowed = os.sched_getaffinity(0)
    pinned = {core for device in spec.machines for core in device.cores}
    return sorted(allowed - pinned or allowed)


@contextmanager
def started_forwarder(spec: LabSpec, names: LabNames) -> Iterator[ForwarderFabric]:
    """Start a forwarder, which makes every device's interface. Raises `HaloError`."""
    start = ForwarderStart(
        seed=spec.seed,
        interface=names.interface,
        ports=[
            PortStart(d.name, names.namespace(d.name), names.mac(i), d.up, d.down)
            for i, d in enumerate(spec.machines)
        ],
        control=str(names.control),
        cores=_cores(spec),
        parent=os.getpid(),
    )
    with (
        started(start.command(), "the lab's forwarder"),
        closing(ForwarderFabric(spec, names)) as fabric,
    ):
        yield fabric

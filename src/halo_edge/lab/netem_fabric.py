"""Links made by the kernel's netem, and by a process beside the lab that keeps them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Final

from halo_edge.lab.forwarder import LATE_S, PortStart
from halo_edge.lab.links_process import ProcessFabric, started
from halo_edge.lab.names import LabNames
from halo_edge.lab.netem_links import NetemStart
from halo_edge.lab.spec import LabSpec

# Beyond this, bursts are not what the lab's description says.
MAX_LATE_SHARE: Final = 0.05


class NetemFabric(ProcessFabric):
    """A `Fabric`, over links that are there already."""

    def __init__(self, names: LabNames) -> None:
        super().__init__(names.netem)

    def describe(self) -> str:
        return "links by the kernel's netem"

    def warnings(self) -> list[str]:
        status = self.status()
        if status.late <= MAX_LATE_SHARE * status.frames:
            return []
        return [
            f"{status.late:,} of {status.frames:,} beginnings and ends of bursts were over "
            f"{LATE_S * 1e3:.0f} ms late (worst: {status.worst_late_s * 1e3:.0f} ms): this machine "
            f"is too busy for them"
        ]


@contextmanager
def started_netem(spec: LabSpec, names: LabNames) -> Iterator[NetemFabric]:
    """Make the bridge, every device's interface, and its link. Raises `HaloError`."""
    start = NetemStart(
        seed=spec.seed,
        interface=names.interface,
        ports=[
            PortStart(d.name, names.namespace(d.name), names.mac(i), d.up, d.down)
            for i, d in enumerate(spec.machines)
        ],
        control=str(names.netem),
        parent=os.getpid(),
    )
    with started(start.command(), "the lab's links"), closing(NetemFabric(names)) as fabric:
        yield fabric

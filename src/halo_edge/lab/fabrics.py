"""Which kind of links a lab gets: the kernel's netem where it is there and can do what the lab's
description says, a forwarder of every packet otherwise."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager

from halo_edge.errors import HaloError
from halo_edge.lab.fabric import Fabric
from halo_edge.lab.forwarder_fabric import ForwarderFabric, started_forwarder
from halo_edge.lab.names import LabNames
from halo_edge.lab.netem import expressible
from halo_edge.lab.netem_fabric import NetemFabric, started_netem
from halo_edge.lab.qdisc import available
from halo_edge.lab.spec import FabricKind, LabSpec


@contextmanager
def open_fabric(spec: LabSpec, names: LabNames) -> Iterator[Fabric]:
    """The links of a new lab, whose namespaces exist. Raises `HaloError`."""
    start = started_netem if uses_netem(spec) else started_forwarder
    with start(spec, names) as fabric:
        yield fabric


@contextmanager
def running_fabric(spec: LabSpec, names: LabNames) -> Iterator[Fabric]:
    """Those of a lab that is up. Raises `HaloError`."""
    fabric = NetemFabric(names) if names.netem.exists() else ForwarderFabric(spec, names)
    with closing(fabric):
        yield fabric


def uses_netem(spec: LabSpec) -> bool:
    """Raises `HaloError` where it should, and cannot."""
    if spec.fabric is FabricKind.FORWARDER:
        return False
    if not available():
        reason = "this kernel has no netem (sch_netem), bridge or veth"
    else:
        reason = _inexpressible(spec)
    if reason and spec.fabric is FabricKind.NETEM:
        raise HaloError(f"lab {spec.name}: {reason}; fabric = 'forwarder' works everywhere")
    return not reason


def _inexpressible(spec: LabSpec) -> str:
    """Why netem cannot do all of it, or nothing."""
    settings = [way for device in spec.machines for way in (device.up, device.down)]
    settings += [event.link for event in spec.events if event.link is not None]
    return next((reason for way in settings if (reason := expressible(way))), "")

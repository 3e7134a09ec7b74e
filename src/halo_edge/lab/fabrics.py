"""Which kind of links a lab gets."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager

from halo_edge.lab.fabric import Fabric
from halo_edge.lab.forwarder_fabric import ForwarderFabric, started_forwarder
from halo_edge.lab.names import LabNames
from halo_edge.lab.spec import LabSpec


@contextmanager
def open_fabric(spec: LabSpec, names: LabNames) -> Iterator[Fabric]:
    """The links of a new lab, whose namespaces exist. Raises `HaloError`."""
    with started_forwarder(spec, names) as fabric:
        yield fabric


@contextmanager
def running_fabric(spec: LabSpec, names: LabNames) -> Iterator[Fabric]:
    """Those of a lab that is up. Raises `HaloError`."""
    with closing(ForwarderFabric(spec, names)) as fabric:
        yield fabric

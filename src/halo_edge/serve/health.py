"""Whether the server can answer, for those who watch it: load balancers, systemd, people."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from halo_edge.sync.ids import DeviceId


class Status(Enum):
    """DEGRADED: it answers, and more slowly than it could."""

    READY = "ready"
    DEGRADED = "degraded"
    NOT_READY = "not ready"


@dataclass(frozen=True)
class Health:
    """`reason`: why it is not READY."""

    status: Status
    reason: str = ""


class Devices(Protocol):
    """What is asked of a `Cluster`."""

    @property
    def members(self) -> Mapping[DeviceId, str]: ...

    @property
    def away(self) -> frozenset[DeviceId]: ...


def cluster_health(devices: Devices | None) -> Callable[[], Health]:
    """Of a server whose FFN these compute; None: it alone."""

    def health() -> Health:
        if devices is None:
            return Health(Status.READY)
        away, members = devices.away, devices.members
        names = sorted(members[device] for device in away if device in members)
        if not names:
            return Health(Status.READY)
        return Health(Status.DEGRADED, f"away, and stood in for: {', '.join(names)}")

    return health

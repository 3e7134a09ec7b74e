"""A device of a cluster as the scheduler sees it: what it computes like, holds, and hangs on."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final

from halo_edge.plan.device_profile import DeviceProfile
from halo_edge.plan.link import Link

PROCESS_BYTES: Final = 96 << 20
"""Memory that a worker or root takes without weights: 44 MB once everything is imported (measured),
and as much again for buffers and the control plane."""


@dataclass(frozen=True)
class SharedCores:
    """Cores on which several devices take turns, being processes of one machine. Those with an
    equal one share it. Raises ValueError for less than one core."""

    name: str
    count: int = 1

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ValueError("devices share at least one core")


@dataclass(frozen=True)
class Device:
    """`speed`: the CPU time a second it may use, as a share of what its profile has; a device
    that waits anyway is not slowed down by it. `memory_bytes`: for everything it needs memory for;
    None: as much as is needed. `storage_bytes_per_s`: how fast it reads weights that do not stay in
    memory; None: it must not have such. `cores`: None where it has some to itself.

    Raises ValueError for what makes no sense.
    """

    name: str
    profile: DeviceProfile
    speed: float = 1.0
    memory_bytes: int | None = None
    storage_bytes_per_s: float | None = None
    link: Link = field(default_factory=Link)
    cores: SharedCores | None = None

    def __post_init__(self) -> None:
        if not 0 < self.speed < math.inf:
            raise ValueError(f"device {self.name}: speed is above 0")
        if self.memory_bytes is not None and self.memory_bytes < 0:
            raise ValueError(f"device {self.name}: memory is not negative")
        if self.storage_bytes_per_s is not None and not self.storage_bytes_per_s > 0:
            raise ValueError(f"device {self.name}: storage reads more than 0 bytes a second")

    @cached_property
    def quota(self) -> float:
        """CPU time it may use in a second; more than one thread has is no limit."""
        return min(1.0, self.speed)


@dataclass(frozen=True)
class Cluster:
    """`devices[0]` is the root. `frame_s`: every datagram takes so long through something that all
    share, one after another, such as the lab's forwarder. Raises ValueError without devices, or
    with two of a name."""

    devices: tuple[Device, ...]
    frame_s: float = 0.0

    def __post_init__(self) -> None:
        names = {device.name for device in self.devices}
        if not self.devices or len(names) != len(self.devices):
            raise ValueError("a cluster has a root, and each of its devices a name of its own")

    @property
    def root(self) -> Device:
        return self.devices[0]

"""What joins the devices of a lab: the links between them, with their impairments.

Two kinds do the same: the kernel's netem where it is there, and a process that forwards every
packet where it is not.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from halo_edge.lab.link import LinkCounters, LinkSettings


@dataclass(frozen=True)
class DeviceCounters:
    """What has passed a device's link, from it and to it."""

    up: LinkCounters = field(default_factory=LinkCounters)
    down: LinkCounters = field(default_factory=LinkCounters)


class Fabric(Protocol):
    """The links of a lab. Every method raises `HaloError` when the lab is not up any more."""

    def describe(self) -> str:
        """What it is, in a few words."""

    def links(self) -> dict[str, tuple[LinkSettings, LinkSettings]]:
        """Each device's settings: from it, to it."""

    def set_link(self, device: str, up: LinkSettings, down: LinkSettings) -> None:
        """Other settings, from now on."""

    def counters(self) -> dict[str, DeviceCounters]: ...

    def warnings(self) -> list[str]:
        """Reasons to distrust what was measured over it, one line each."""

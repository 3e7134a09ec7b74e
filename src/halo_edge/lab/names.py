"""What everything that belongs to a lab is called, and where it lies."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from halo_edge.lab.cgroups import Cgroup
from halo_edge.lab.enter import Entry
from halo_edge.lab.spec import LabSpec

RUN_DIRECTORY: Final = Path("/run/halo-lab")
CGROUP: Final = "halo-lab"  # with those of all labs below it
# Every lab has a network of its own, which nothing else can reach: all may use the same addresses.
NETWORK: Final = "10.77.0"


class LabNames:
    """The names of the lab `lab`. A dot, which no lab or device has in its name, parts the two."""

    interface: Final = "lan0"
    prefix_length: Final = 24

    def __init__(self, lab: str) -> None:
        self.lab = lab
        self.directory = RUN_DIRECTORY / lab
        self.lock = self.directory / "lock"
        self.hosts = self.directory / "hosts"
        self.control = self.directory / "forwarder"
        self.netem = self.directory / "netem"

    def namespace(self, device: str) -> str:
        return f"halo.{self.lab}.{device}"

    def cgroup(self, device: str = "") -> str:
        return f"{CGROUP}/{self.lab}/{device}".rstrip("/")

    def log(self, device: str) -> Path:
        return self.directory / f"{device}.log"

    def address(self, index: int) -> str:
        return f"{NETWORK}.{index + 1}"

    def mac(self, index: int) -> str:
        return f"02:00:00:00:00:{index + 1:02x}"

    def addresses(self, spec: LabSpec) -> dict[str, str]:
        return {device.name: self.address(i) for i, device in enumerate(spec.machines)}

    def neighbours(self, spec: LabSpec, device: str) -> dict[str, str]:
        """The MAC address of every other device, by its IP address."""
        others = [i for i, d in enumerate(spec.machines) if d.name != device]
        return {self.address(i): self.mac(i) for i in others}

    def entry(self, device: str, group: Cgroup, cores: Sequence[int], parent: int | None) -> Entry:
        """The way onto a device."""
        return Entry(
            self.namespace(device), group.procs_files, list(cores), str(self.hosts), parent
        )

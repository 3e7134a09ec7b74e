"""A virtual cluster's description: devices, their links, and what happens to them when.

One TOML file (docs/lab.md has the reference); some come with the package. The lab builds it with
real packets, the simulator in virtual time.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from enum import StrEnum
from importlib import resources
from pathlib import Path
from typing import Annotated, Final

import msgspec
from msgspec import Meta, Struct

from halo_edge.errors import HaloError
from halo_edge.lab.link import Burst, LinkSettings

MAX_DEVICES: Final = 250  # the lab's addresses end in .1 to .250
MAX_EVENTS: Final = 10_000
MAX_FILE_BYTES: Final = 1 << 20
_BUILT_IN: Final = resources.files("halo_edge.lab") / "clusters"


class Action(StrEnum):
    """What can happen to a device. `cut` and `join`: its link; `kill` and `restart`: its worker;
    `stop` and `continue`: SIGSTOP and SIGCONT to its worker; `speed`: its CPU quota; `link`: its
    link's settings, each way, but for being cut."""

    CUT = "cut"
    JOIN = "join"
    KILL = "kill"
    RESTART = "restart"
    STOP = "stop"
    CONTINUE = "continue"
    SPEED = "speed"
    LINK = "link"


_FOR_WORKERS: Final = (Action.KILL, Action.RESTART, Action.STOP, Action.CONTINUE)


class FabricKind(StrEnum):
    """What makes the links."""

    NETEM = "netem"
    FORWARDER = "forwarder"


@dataclass(frozen=True)
class DeviceSpec:
    """`speed`: CPU time it may use, in cores of this machine (None: no limit). `cores`: where it
    may run (empty: anywhere). `profile`: what it computes like in the simulator and in plans.
    `storage_bytes_per_s`: how fast it reads from disk (None: in the lab no limit, in plans all it
    holds must stay in memory). `up`, `down`: its link, from it and to it."""

    name: str
    speed: float | None = None
    memory_bytes: int | None = None
    storage_bytes_per_s: float | None = None
    cores: tuple[int, ...] = ()
    threads: int = 1
    profile: str | None = None
    up: LinkSettings = field(default_factory=LinkSettings)
    down: LinkSettings = field(default_factory=LinkSettings)


@dataclass(frozen=True)
class Event:
    """`at_s`: seconds after the start of the command (lab) or of the first round (simulator)."""

    at_s: float
    action: Action
    device: str
    speed: float | None = None
    link: LinkSettings | None = None


@dataclass(frozen=True)
class LabSpec:
    """`devices[0]` is the root. `clients`: other machines of the network, such as one that asks the
    root's server. Events are in the order of their times. `fabric`: None for the best there is.
    `own_caches`: shards and benchmarks are kept by each device, not by all together."""

    name: str
    devices: tuple[DeviceSpec, ...]
    seed: int = 0
    events: tuple[Event, ...] = ()
    fabric: FabricKind | None = None
    own_caches: bool = False
    clients: tuple[DeviceSpec, ...] = ()

    @property
    def machines(self) -> tuple[DeviceSpec, ...]:
        """All that have a network of their own: devices, then clients."""
        return self.devices + self.clients

    @property
    def root(self) -> DeviceSpec:
        return self.devices[0]

    @property
    def workers(self) -> tuple[DeviceSpec, ...]:
        return self.devices[1:]

    def device(self, name: str) -> DeviceSpec:
        """Raises `HaloError` where there is none of that name."""
        for device in self.machines:
            if device.name == name:
                return device
        names = ", ".join(device.name for device in self.machines)
        raise HaloError(f"lab {self.name} has no device {name!r}; its devices are {names}")


def built_in() -> list[str]:
    """The names of the descriptions that come with the package."""
    return sorted(p.name.removesuffix(".toml") for p in _BUILT_IN.iterdir())


def read_spec(name: str) -> LabSpec:
    """From a file, or one of `built_in()` by its name. Raises `HaloError`."""
    path = Path(name)
    if name in built_in() and not path.is_file():
        return parse_spec((_BUILT_IN / f"{name}.toml").read_bytes(), name)
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise HaloError(
            f"cannot read {name} ({error.strerror}); give a TOML file, or one of "
            f"{', '.join(built_in())}"
        ) from None
    if len(data) > MAX_FILE_BYTES:
        raise HaloError(f"{name} is not a lab description: over {MAX_FILE_BYTES >> 20} MB")
    return parse_spec(data, path.stem)


def parse_spec(toml: bytes, name: str) -> LabSpec:
    """From TOML; `name` serves where it has no name of its own. Raises `HaloError`."""
    try:
        file = msgspec.toml.decode(toml, type=_File)
        devices = tuple(device for table in file.device for device in _devices(table))
        clients = tuple(client for table in file.client for client in _devices(table))
        workers = [device.name for device in devices[1:]]
        names = [devices[0].name, *workers, *(client.name for client in clients)]
        if len(set(names)) != len(names) or len(names) > MAX_DEVICES:
            raise ValueError(f"up to {MAX_DEVICES} devices, each with a name of its own")
        events = sorted((_event(t, names, workers) for t in file.event), key=lambda e: e.at_s)
        return LabSpec(
            file.name or _as_name(name),
            devices,
            file.seed,
            tuple(events),
            file.fabric,
            file.own_caches,
            clients,
        )
    except (ValueError, RecursionError) as error:
        reason = str(error).splitlines()[0]
        raise HaloError(f"lab {name}: {reason}; see docs/lab.md") from None


def _as_name(file_name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_-]", "-", file_name)[:_MAX_NAME] or "lab"


_MAX_NAME: Final = 32
_Speed = Annotated[float, Meta(ge=0.01, le=1024)]


class _Table(Struct, forbid_unknown_fields=True, kw_only=True, frozen=True):
    pass


class _LinkTable(_Table, frozen=True):
    """What of `LinkSettings` is said; the rest is left as it was."""

    loss: float | None = None
    burst: Burst | None = None
    delay_ms: float | None = None
    jitter_ms: float | None = None
    rate_mbit: float | None = None
    queue_ms: float | None = None
    duplicate: float | None = None
    corrupt: float | None = None
    reorder: float | None = None

    def settings(self, otherwise: LinkSettings) -> LinkSettings:
        names = _LinkTable.__struct_fields__
        said = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        return replace(otherwise, **said)


class _DeviceTable(_LinkTable, frozen=True, kw_only=True):
    name: Annotated[str, Meta(pattern=r"^[a-z][a-z0-9-]{0,8}$")]
    count: Annotated[int, Meta(ge=1, le=MAX_DEVICES)] = 1
    speed: _Speed | None = None
    memory_mb: Annotated[float, Meta(ge=1, le=1e9)] | None = None
    storage_mb_s: Annotated[float, Meta(ge=0.001, le=1e6)] | None = None
    cores: list[Annotated[int, Meta(ge=0, le=4095)]] = []
    threads: Annotated[int, Meta(ge=1, le=1024)] = 1
    profile: str | None = None
    up: _LinkTable = _LinkTable()
    down: _LinkTable = _LinkTable()


class _EventTable(_Table, frozen=True, kw_only=True):
    at_s: Annotated[float, Meta(ge=0, le=1e9)]
    action: Action
    device: str
    speed: _Speed | None = None
    link: _LinkTable | None = None


class _File(_Table, frozen=True, kw_only=True):
    device: Annotated[list[_DeviceTable], Meta(min_length=1)]
    name: Annotated[str, Meta(pattern=rf"^[A-Za-z0-9_-]{{1,{_MAX_NAME}}}$")] | None = None
    seed: int = 0
    event: Annotated[list[_EventTable], Meta(max_length=MAX_EVENTS)] = []
    fabric: FabricKind | None = None
    own_caches: bool = False
    client: list[_DeviceTable] = []


def _devices(table: _DeviceTable) -> list[DeviceSpec]:
    """`n1` with count 3 stands for n1, n2 and n3."""
    both = table.settings(LinkSettings())
    device = DeviceSpec(
        name=table.name,
        speed=table.speed,
        memory_bytes=None if table.memory_mb is None else int(table.memory_mb * (1 << 20)),
        storage_bytes_per_s=None if table.storage_mb_s is None else table.storage_mb_s * 1e6,
        cores=tuple(table.cores),
        threads=table.threads,
        profile=table.profile,
        up=table.up.settings(both),
        down=table.down.settings(both),
    )
    if table.count == 1:
        return [device]
    stem = table.name.rstrip("0123456789")
    if stem == table.name:
        raise ValueError(f"device {table.name}: with `count` a name ends in a number, e.g. n1")
    first = int(table.name.removeprefix(stem))
    return [replace(device, name=f"{stem}{first + i}") for i in range(table.count)]


def _event(table: _EventTable, names: list[str], workers: list[str]) -> Event:
    where = f"event at {table.at_s:g} s"
    if table.device not in names:
        raise ValueError(f"{where}: no device {table.device!r}; there are {', '.join(names)}")
    if table.device not in workers and table.action in _FOR_WORKERS:
        what = "the root" if table.device == names[0] else "a client"
        raise ValueError(f"{where}: {table.action} is for workers, and {table.device} is {what}")
    if (table.action is Action.SPEED) != (table.speed is not None):
        raise ValueError(f"{where}: `speed = ...` goes with action = 'speed', and only with it")
    if (table.action is Action.LINK) != (table.link is not None):
        raise ValueError(f"{where}: `link = ...` goes with action = 'link', and only with it")
    link = None if table.link is None else table.link.settings(LinkSettings())
    return Event(table.at_s, table.action, table.device, table.speed, link)

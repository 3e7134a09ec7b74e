"""Device profiles: how fast a kind of machine computes, and what its protocol costs it.

Some come with the package, each number with its source; that of this machine is measured
(`host_profile.py`) and kept in a file of the same form.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from importlib import resources
from pathlib import Path
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from halo_edge.errors import HaloError

HOST: Final = "host"
OTHERS: Final = "others"
MAX_FILE_BYTES: Final = 1 << 16
_BUILT_IN: Final = resources.files("halo_edge.lab") / "profiles"

_Seconds = Annotated[float, Meta(ge=0, le=10)]
_Rate = Annotated[float, Meta(ge=1e3, le=1e18)]


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What the devices of a lab have in common when they are processes of one machine."""

    cores: Annotated[int, Meta(ge=1, le=4096)]
    tick_s: _Seconds
    """Between two ticks of the kernel's timer."""
    frame_s: _Seconds
    """CPU time in which the lab's forwarder passes a frame on; 0: links cost none."""
    switch_s: _Seconds
    """From one process to another on the same core."""
    idle_wake_s: _Seconds
    """What an idle core needs in addition to begin."""


@dataclass(frozen=True, kw_only=True)
class DeviceProfile:
    """Times are CPU time; datagrams are those of a round (1.1 kB and the like).

    `sources` says of each number, by its name, where it is from; `others` of those not named.
    """

    name: str
    memory_bytes_per_s: _Rate
    """Weights multiplied with one token's vector."""
    flop_per_s: _Rate
    """Weights multiplied with many tokens' vectors: two operations for each weight and token."""
    kv_bytes_per_s: _Rate
    """Keys and values read by attention."""
    graph_s: _Seconds
    """Of every call of a compute graph."""
    attention_s: _Seconds
    """Of a layer's attention for one token, beside its graph, weights, keys and values."""
    token_s: _Seconds
    """Of a step at the root, outside of layers and head: inputs, embedding, sampling."""
    encode_s: _Seconds
    """One token's x, encoded for the wire."""
    add_s: _Seconds
    """One worker's partial for one token, decoded and added; beside the graph."""
    round_s: _Seconds
    """Of a round at the root: begun, its books kept."""
    serve_s: _Seconds
    """Of a round at a worker: its books kept, the partial copied."""
    seal_s: _Seconds
    """Of a datagram: cut and sealed."""
    send_s: _Seconds
    """Of a datagram to one device: handed to the kernel."""
    receive_s: _Seconds
    """Of a datagram: taken from the kernel, opened, entered in the books."""
    crypto_s_per_byte: _Seconds
    """Of sealing or opening, beyond what the above contain; where the CPU has no AES of its own."""
    wake_s: _Seconds
    """From the arrival of what was waited for until it is being looked at."""
    sources: dict[str, str]
    machine: Machine | None = None
    """Of a profile that was measured on a machine, to say what a lab on it does."""


NUMBERS: Final = tuple(
    f.name for f in fields(DeviceProfile) if f.name not in ("name", "sources", "machine")
)


def built_in_profiles() -> list[str]:
    """The names of those that come with the package."""
    return sorted(p.name.removesuffix(".toml") for p in _BUILT_IN.iterdir())


def load_profile(name: str) -> DeviceProfile:
    """One that comes with the package. Raises `HaloError`."""
    if name not in built_in_profiles():
        raise HaloError(
            f"no device profile {name!r}; there are {', '.join(built_in_profiles())} and {HOST}"
        )
    return parse_profile((_BUILT_IN / f"{name}.toml").read_bytes(), f"{name}.toml")


def read_profile(path: Path) -> DeviceProfile:
    """One from a file. Raises `HaloError`."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise HaloError(f"cannot read the profile {path}: {error.strerror}") from None
    if len(data) > MAX_FILE_BYTES:
        raise HaloError(f"{path} is not a device profile: over {MAX_FILE_BYTES >> 10} kB")
    return parse_profile(data, str(path))


def parse_profile(toml: bytes, where: str) -> DeviceProfile:
    """From TOML. Raises `HaloError` for what is no profile, or lacks a source."""
    try:
        profile = msgspec.toml.decode(toml, type=DeviceProfile)
    except (ValueError, RecursionError) as error:
        reason = str(error).splitlines()[0]
        raise HaloError(f"profile {where}: {reason}; see docs/simulator.md") from None
    missing = set(NUMBERS) - profile.sources.keys()
    if missing and OTHERS not in profile.sources:
        raise HaloError(f"profile {where}: no source for {', '.join(sorted(missing))}")
    return profile


def write_profile(profile: DeviceProfile, path: Path) -> None:
    """As `read_profile` reads it. Raises `HaloError`."""
    plain = asdict(profile)
    tables = {"sources": plain.pop("sources"), "machine": plain.pop("machine")}
    lines = _assignments(plain)
    for name, table in tables.items():
        if table is not None:
            lines += ["", f"[{name}]", *_assignments(table)]
    try:
        path.write_text("\n".join(lines) + "\n")
    except OSError as error:
        raise HaloError(f"cannot write the profile {path}: {error.strerror}") from None


def _assignments(values: Mapping[str, str | float]) -> list[str]:
    """JSON's numbers and strings are TOML's, too."""
    return [f"{name} = {msgspec.json.encode(value).decode()}" for name, value in values.items()]

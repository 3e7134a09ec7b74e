"""Device profiles as TOML files.

Some come with the package, each number with its source; that of this machine is measured
(`host_profile.py`) and kept in a file of the same form.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from importlib import resources
from pathlib import Path
from typing import Final

import msgspec

from halo_edge.errors import HaloError
from halo_edge.plan.device_profile import HOST, NUMBERS, DeviceProfile

OTHERS: Final = "others"
MAX_FILE_BYTES: Final = 1 << 16
_BUILT_IN: Final = resources.files("halo_edge.lab") / "profiles"


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

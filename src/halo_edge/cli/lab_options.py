"""What commands share that are about a lab's description rather than a cluster that is there."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from halo_edge.cli.console import notes
from halo_edge.lab.host_profile import measure_host_profile
from halo_edge.lab.profiles import load_profile, read_profile
from halo_edge.lab.spec import LabSpec, built_in
from halo_edge.model.synth import SHAPES
from halo_edge.plan.device_profile import HOST, DeviceProfile

LabName = Annotated[
    str,
    Argument(metavar="LAB", help=f"A TOML file (docs/lab.md), or one of {', '.join(built_in())}."),
]
ModelName = Annotated[
    str, Option("--model", "-m", help=f"A GGUF file, or a shape: {', '.join(SHAPES)}.")
]
HostProfile = Annotated[
    Path | None,
    Option(
        "--host",
        dir_okay=False,
        help="The profile of this machine, for devices without one; from `halo lab profile`. "
        "Default: measured now, if it is needed.",
    ),
]


def lab_profiles(spec: LabSpec, model: str, host: Path | None) -> dict[str, DeviceProfile]:
    """Those of the description's devices, by name. Raises `HaloError`."""
    names = {device.profile or HOST for device in spec.devices}
    profiles = {name: load_profile(name) for name in sorted(names - {HOST})}
    if HOST in names:
        if host is None:
            notes.print("measuring this machine, for the devices without a profile", style="dim")
            profiles[HOST] = measure_host_profile(model)
        else:
            profiles[HOST] = replace(read_profile(host), name=HOST)
    return profiles

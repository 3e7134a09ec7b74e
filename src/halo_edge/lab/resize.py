"""A lab's description with more devices, or fewer."""

from __future__ import annotations

from dataclasses import replace
from itertools import count

from halo_edge.errors import HaloError
from halo_edge.lab.spec import LabSpec


def resized(spec: LabSpec, n: int) -> LabSpec:
    """The first `n` devices; where there are not so many, the workers over again, by other names.

    Raises `HaloError` where that takes away a device to which something happens, or the lab has no
    worker to repeat.
    """
    devices = list(spec.devices[:n])
    gone = {device.name for device in spec.devices[n:]}
    for event in spec.events:
        if event.device in gone:
            raise HaloError(
                f"lab {spec.name} with {n} devices has no {event.device}, to which something "
                f"happens at {event.at_s:g} s; use more"
            )
    if n > len(devices) and not spec.workers:
        raise HaloError(f"lab {spec.name} has no worker of which there could be more")
    names = {machine.name for machine in (*devices, *spec.clients)}
    others = (name for i in count(1) if (name := f"n{i}") not in names)
    while len(devices) < n:
        like = spec.workers[(len(devices) - 1) % len(spec.workers)]
        devices.append(replace(like, name=next(others)))
    return replace(spec, devices=tuple(devices))

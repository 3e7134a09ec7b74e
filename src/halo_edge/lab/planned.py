"""A lab's description as the scheduler sees it.

As in the simulator, a device with a profile is a machine of its own, and one without is a process
of this machine, with a quota of its CPU time.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from halo_edge.errors import HaloError
from halo_edge.lab.link import LinkSettings
from halo_edge.lab.spec import DeviceSpec, LabSpec
from halo_edge.plan.device import Cluster, Device, SharedCores
from halo_edge.plan.device_profile import HOST, DeviceProfile
from halo_edge.plan.link import Link, OneWay


def planned(spec: LabSpec, profiles: Mapping[str, DeviceProfile]) -> Cluster:
    """`profiles`: by the names in `spec`; `HOST` for devices without one.

    Raises `HaloError` for a link that carries nothing, a profile that is missing, or one of this
    machine that does not say what machine it is.
    """
    machine = profiles[HOST].machine if HOST in profiles else None
    on_host = [device for device in spec.devices if device.profile in (None, HOST)]
    if on_host and machine is None:
        raise HaloError(f"the profile {HOST} does not say what machine it is; measure it again")
    cores = machine.cores if machine is not None else 1
    return Cluster(
        tuple(_device(device, profiles, cores) for device in spec.devices),
        frame_s=machine.frame_s if machine is not None and on_host else 0.0,
    )


def _device(spec: DeviceSpec, profiles: Mapping[str, DeviceProfile], cores: int) -> Device:
    name = spec.profile or HOST
    if name not in profiles:
        raise HaloError(f"device {spec.name} needs the profile {name!r}")
    shared, speed = None, 1.0
    if name == HOST:
        where = ",".join(map(str, sorted(set(spec.cores)))) or "any"
        shared = SharedCores(where, len(set(spec.cores)) or cores)
        speed = spec.speed or 1.0
    return Device(
        name=spec.name,
        profile=profiles[name],
        speed=speed,
        memory_bytes=spec.memory_bytes,
        storage_bytes_per_s=spec.storage_bytes_per_s,
        link=Link(_one_way(spec.name, spec.up), _one_way(spec.name, spec.down)),
        cores=shared,
    )


def _one_way(name: str, settings: LinkSettings) -> OneWay:
    """What is lost in bursts is lost together, and what is not, by chance."""
    loss = settings.mean_loss
    if loss >= 1:
        raise HaloError(f"the link of device {name} carries nothing; give it a loss below 1")
    again = None
    if settings.burst is not None and loss:
        # So much of what is lost is lost in a bad moment, in which what is sent beside it is too.
        in_burst = min(1.0, settings.burst.mean_loss / loss)
        bad = 1 - (1 - settings.loss) * (1 - settings.burst.loss)
        again = in_burst * bad + (1 - in_burst) * settings.loss
    rate = math.inf if settings.rate_mbit is None else settings.rate_mbit * 1e6 / 8
    return OneWay(settings.delay_ms / 1e3, settings.jitter_ms / 1e3, rate, loss, again)

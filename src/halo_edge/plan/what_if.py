"""What a change to a cluster would bring, by planning for the changed one."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from halo_edge.plan.device import Cluster, Device
from halo_edge.plan.link import Link, OneWay
from halo_edge.plan.schedule import Objective, Schedule, schedule
from halo_edge.plan.workload import Workload


@dataclass(frozen=True)
class WhatIf:
    """What is predicted for one more device like the worker `like`, the fastest, and for links of
    twice the rate. None where there is no worker, or no rate to double."""

    like: str | None
    one_more: Schedule | None
    twice_the_rate: Schedule | None


def what_if(cluster: Cluster, workload: Workload, objective: Objective) -> WhatIf:
    like = max(cluster.devices[1:], key=_speed, default=None)
    bounded = any(
        way.bytes_per_s < math.inf
        for device in cluster.devices
        for way in (device.link.up, device.link.down)
    )
    return WhatIf(
        like=like.name if like else None,
        one_more=schedule(_with_one_more(cluster, like), workload, objective) if like else None,
        twice_the_rate=schedule(_faster(cluster), workload, objective) if bounded else None,
    )


def _speed(device: Device) -> float:
    return device.quota * device.profile.memory_bytes_per_s


def _with_one_more(cluster: Cluster, like: Device) -> Cluster:
    """Its name is one that no device can have."""
    return replace(cluster, devices=(*cluster.devices, replace(like, name=f"{like.name}'")))


def _faster(cluster: Cluster) -> Cluster:
    def twice(way: OneWay) -> OneWay:
        return replace(way, bytes_per_s=2 * way.bytes_per_s)

    devices = tuple(
        replace(device, link=Link(twice(device.link.up), twice(device.link.down)))
        for device in cluster.devices
    )
    return replace(cluster, devices=devices)

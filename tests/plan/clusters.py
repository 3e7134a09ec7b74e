"""Clusters, models and workloads for tests of plans."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, Final

from halo_edge.lab.profiles import load_profile
from halo_edge.lab.shapes import read_shape
from halo_edge.plan.device import Cluster, Device
from halo_edge.plan.device_profile import NUMBERS, DeviceProfile
from halo_edge.plan.link import Link
from halo_edge.plan.workload import Workload

TINYLLAMA: Final = read_shape("tinyllama-1.1b")
FOUR_LAYERS: Final = replace(TINYLLAMA, n_layers=4)


def free(**numbers: float) -> DeviceProfile:
    """Nothing costs anything but `numbers`."""
    rates = ("memory_bytes_per_s", "flop_per_s", "kv_bytes_per_s")
    costs: dict[str, Any] = {name: 1e18 if name in rates else 0.0 for name in NUMBERS}
    return DeviceProfile(name="made", sources={}, **costs | numbers)


def link(
    rtt_ms: float = 1.0, mbit: float = math.inf, loss: float = 0.0, again: float | None = None
) -> Link:
    return Link.alike(rtt_s=rtt_ms / 1e3, bytes_per_s=mbit * 1e6 / 8, loss=loss, again=again)


def cluster(*workers: Device, root: Device | None = None) -> Cluster:
    """A Pi 4 with a clean link as the root, and these, renamed n1, n2, ..."""
    root = root or Device("n0", load_profile("pi4"))
    return Cluster((root, *(replace(w, name=f"n{i}") for i, w in enumerate(workers, 1))))


def worker(profile: str = "pi4", **link_settings: Any) -> Device:
    return Device("worker", load_profile(profile), link=link(**link_settings))


def workload(**settings: Any) -> Workload:
    return Workload(**{"shape": TINYLLAMA, "prompt": 32, "answer": 32} | settings)

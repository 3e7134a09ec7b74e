"""Devices and clusters that cannot be."""

from __future__ import annotations

from typing import Any

import pytest
from tests.plan.clusters import free

from halo_edge.plan.device import Cluster, Device, SharedCores


@pytest.mark.parametrize(
    "settings",
    [{"speed": 0.0}, {"speed": float("nan")}, {"memory_bytes": -1}, {"storage_bytes_per_s": 0.0}],
)
def test_no_device(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="device n1"):
        Device("n1", free(), **settings)


def test_no_cluster() -> None:
    one = Device("n1", free())
    for devices in ((), (one, one)):
        with pytest.raises(ValueError, match="a cluster has a root"):
            Cluster(devices)
    with pytest.raises(ValueError, match="at least one core"):
        SharedCores("none", 0)


def test_a_thread_has_one_core_at_the_most() -> None:
    assert Device("n1", free(), speed=3).quota == 1
    assert Device("n1", free(), speed=0.25).quota == 0.25

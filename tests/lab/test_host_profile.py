"""Measuring this machine: every number is there and of a sensible size; not how large it is."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from halo_edge.errors import HaloError
from halo_edge.lab.host_profile import measure_host_profile
from halo_edge.lab.profiles import read_profile, write_profile
from halo_edge.plan.device_profile import HOST


@pytest.mark.skipif(sys.platform != "linux", reason="pins to cores, which needs Linux")
def test_a_machine_is_measured(tiny_model: Path, tmp_path: Path) -> None:
    profile = measure_host_profile(str(tiny_model))
    assert profile.name == HOST
    for rate in (profile.memory_bytes_per_s, profile.flop_per_s, profile.kv_bytes_per_s):
        assert 1e6 < rate <= 1e13
    for cost_s in (
        profile.token_s,
        profile.encode_s,
        profile.round_s,
        profile.serve_s,
        profile.seal_s,
        profile.send_s,
        profile.receive_s,
        profile.wake_s,
    ):
        assert 1e-7 < cost_s < 0.1
    machine = profile.machine
    assert machine is not None and machine.cores >= 1
    assert 0.0005 <= machine.tick_s <= 0.02
    assert 1e-7 < machine.frame_s < 0.1
    write_profile(profile, tmp_path / "host.toml")
    assert read_profile(tmp_path / "host.toml") == profile


def test_no_model() -> None:
    with pytest.raises(HaloError, match="no such model"):
        measure_host_profile("nothing")

"""A lab's description as the scheduler sees it."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from halo_edge.errors import HaloError
from halo_edge.lab.planned import planned
from halo_edge.lab.profiles import load_profile
from halo_edge.lab.spec import parse_spec
from halo_edge.plan.device import SharedCores
from halo_edge.plan.device_profile import HOST, Machine

MACHINE = Machine(cores=2, tick_s=0.004, frame_s=3e-5, switch_s=0.0, idle_wake_s=0.0)
PROFILES = {"pi4": load_profile("pi4")}
WITH_HOST = PROFILES | {HOST: replace(load_profile("laptop"), name=HOST, machine=MACHINE)}


def test_a_device_with_a_profile_is_a_machine_of_its_own() -> None:
    toml = b"""
    [[device]]
    name = "n0"
    profile = "pi4"
    [[device]]
    name = "n1"
    profile = "pi4"
    speed = 0.1
    memory_mb = 512
    storage_mb_s = 40
    loss = 0.05
    delay_ms = 1
    jitter_ms = 2
    down = { rate_mbit = 80 }
    """
    root, worker = planned(parse_spec(toml, "lab"), PROFILES).devices
    assert (root.name, root.profile.name, root.cores, root.memory_bytes) == (
        "n0",
        "pi4",
        None,
        None,
    )
    assert worker.speed == 1  # a quota is how the real lab imitates a slow machine
    assert (worker.memory_bytes, worker.storage_bytes_per_s) == (512 << 20, 40e6)
    up, down = worker.link.up, worker.link.down
    assert (up.delay_s, up.jitter_s, up.bytes_per_s) == (0.001, 0.002, math.inf)
    assert up.loss == down.loss == pytest.approx(0.05)
    assert down.bytes_per_s == 1e7


def test_devices_without_one_share_this_machine() -> None:
    toml = b"""
    [[device]]
    name = "n0"
    cores = [1]
    [[device]]
    name = "n1"
    cores = [1]
    speed = 0.4
    [[device]]
    name = "n2"
    """
    made = planned(parse_spec(toml, "lab"), WITH_HOST)
    assert made.frame_s == 3e-5
    assert made.devices[0].cores == made.devices[1].cores == SharedCores("1", 1)
    assert made.devices[2].cores == SharedCores("any", 2)
    assert [device.speed for device in made.devices] == [1, 0.4, 1]


def test_what_is_lost_in_bursts_is_lost_together() -> None:
    toml = '[[device]]\nname = "n0"\nprofile = "pi4"\n[[device]]\nname = "n1"\nprofile = "pi4"\n'

    def lost(settings: str) -> tuple[float, float]:
        way = planned(parse_spec((toml + settings).encode(), "lab"), PROFILES).devices[1].link.up
        return way.loss, way.lost_again

    assert lost("loss = 0.1") == pytest.approx((0.1, 0.1))
    assert lost("burst = { good_ms = 380, bad_ms = 20 }") == pytest.approx((0.05, 1.0))
    loss, again = lost("loss = 0.05\nburst = { good_ms = 380, bad_ms = 20 }")
    assert loss == pytest.approx(1 - 0.95**2)
    assert 0.4 < again < 0.6


@pytest.mark.parametrize(
    ("toml", "said"),
    [
        ('[[device]]\nname = "n0"', "the profile host does not say what machine"),
        ('[[device]]\nname = "n0"\nprofile = "pi3"', "device n0 needs the profile 'pi3'"),
        ('[[device]]\nname = "n0"\nprofile = "pi4"\nloss = 1', "device n0 carries nothing"),
    ],
)
def test_what_cannot_be_planned(toml: str, said: str) -> None:
    with pytest.raises(HaloError) as raised:
        planned(parse_spec(toml.encode(), "lab"), PROFILES)
    assert said in str(raised.value) and "\n" not in str(raised.value)

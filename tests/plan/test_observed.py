"""A device's costs become those that are observed."""

from __future__ import annotations

import pytest
from tests.plan.clusters import TINYLLAMA, free

from halo_edge.plan.costs import Costs
from halo_edge.plan.device import Device, SharedCores
from halo_edge.plan.observed import OVERHEAD, Allowance, Observed

ROUNDS = 1_000_000
BENCHMARK = free(memory_bytes_per_s=1e9, graph_s=1e-5, attention_s=1e-4, token_s=1e-3)


def observed() -> Observed:
    return Observed("n1", BENCHMARK, TINYLLAMA)


def costs(device: Device) -> Costs:
    return Costs(device.profile, TINYLLAMA)


def test_the_benchmark_at_first() -> None:
    device = observed().device()
    expected = Costs(BENCHMARK, TINYLLAMA)
    assert device.speed == 1
    assert costs(device).ffn_s(640, 1) == expected.ffn_s(640, 1)
    assert costs(device).attention_s(1, 100) == pytest.approx(expected.attention_s(1, 0))
    step_s = costs(device).prepare_s(1) + costs(device).head_s()
    assert step_s == pytest.approx(expected.prepare_s(1) + expected.head_s())


def test_then_what_rounds_take() -> None:
    one = observed()
    one.ffn(640, cpu_s=0.004, wall_s=0.0041, rounds=ROUNDS)
    one.root(layer_s=0.015, step_s=0.1, rounds=ROUNDS)
    device = one.device()
    assert costs(device).ffn_s(640, 1) == pytest.approx(0.004, rel=0.01)
    assert costs(device).ffn_s(1280, 1) == pytest.approx(0.008, rel=0.01)
    assert costs(device).attention_s(1, 500) == pytest.approx(0.015, rel=0.01)
    assert costs(device).prepare_s(1) + costs(device).head_s() == pytest.approx(0.1, rel=0.01)
    assert device.speed == 1


def test_waiting_that_nothing_explains_is_a_slow_device() -> None:
    one = observed()
    one.ffn(640, cpu_s=0.004, wall_s=0.016, rounds=ROUNDS)
    assert one.device().speed == pytest.approx(0.25, rel=0.01)
    one.allowance = Allowance(quota=0.5)
    assert one.device().speed == 0.5
    one.allowance = Allowance(cores=SharedCores("all"))
    assert one.device().speed == 1


def test_no_neurons_say_nothing() -> None:
    one = observed()
    one.ffn(0, cpu_s=1e-9, wall_s=1e-9, rounds=ROUNDS)
    one.ffn(640, cpu_s=0.0, wall_s=0.0, rounds=ROUNDS)
    assert one.device() == observed().device()


def test_allowances() -> None:
    one = observed()
    one.allowance = Allowance(0.3, 1 << 30, 40e6, SharedCores("all", 2))
    device = one.device()
    assert (device.speed, device.memory_bytes, device.storage_bytes_per_s) == (0.3, 1 << 30, 40e6)
    assert device.cores == SharedCores("all", 2)


def test_the_protocol_takes_longer_in_place() -> None:
    one = Observed("n1", free(seal_s=1e-5, wake_s=1e-4), TINYLLAMA)
    assert one.device().profile.seal_s == pytest.approx(OVERHEAD * 1e-5)
    for _ in range(3):
        one.protocol(round_s=4e-4, expected_s=one.device().profile.wake_s, rounds=ROUNDS)
    assert one.device().profile.wake_s == pytest.approx(4e-4, rel=0.01)
    assert one.device().profile.seal_s == pytest.approx(4e-5, rel=0.01)
    one.protocol(round_s=1.0, expected_s=0.0, rounds=ROUNDS)
    assert one.device().profile.wake_s == pytest.approx(4e-4, rel=0.01)

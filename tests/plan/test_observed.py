"""A device's costs become those that are observed."""

from __future__ import annotations

import pytest
from tests.plan.clusters import TINYLLAMA, free

from halo_edge.plan.costs import Costs
from halo_edge.plan.device import Cluster, Device, SharedCores
from halo_edge.plan.link import Link
from halo_edge.plan.observed import OVERHEAD, Allowance, Observed
from halo_edge.plan.schedule import schedule
from halo_edge.plan.workload import Workload

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


@pytest.mark.parametrize("off_by", [0.5, 1.0, 2.0])
def test_a_slow_root_gives_its_work_away_though_it_knows_of_no_round(off_by: float) -> None:
    """0.3 of a core, two workers with 0.6: alone it would learn nothing of them, so the first
    plan has to be right, even where the benchmark is not. The pieces are those of such a root."""
    benchmark = free(
        memory_bytes_per_s=10e9,
        flop_per_s=50e9,
        kv_bytes_per_s=1e9,
        graph_s=30e-6,
        attention_s=100e-6,
        token_s=1e-3,
        encode_s=off_by * 45e-6,
        add_s=off_by * 3e-6,
        round_s=off_by * 110e-6,
        serve_s=off_by * 30e-6,
        seal_s=off_by * 45e-6,
        send_s=off_by * 30e-6,
        receive_s=off_by * 85e-6,
        wake_s=off_by * 90e-6,
    )
    devices = []
    for i, quota in enumerate((0.3, 0.6, 0.6)):
        one = Observed(f"n{i}", benchmark, TINYLLAMA)
        one.link = Link.alike(rtt_s=0.001)
        one.allowance = Allowance(quota)
        devices.append(one)
    devices[0].root(layer_s=740e-6, step_s=6e-3, rounds=ROUNDS)
    devices[0].ffn(TINYLLAMA.ffn, cpu_s=2e-3, wall_s=7e-3, rounds=ROUNDS)
    cluster = Cluster(tuple(one.device() for one in devices))
    found = schedule(cluster, Workload(TINYLLAMA))
    assert len(found.plan.shares[0]) < TINYLLAMA.partition.n_groups / 4

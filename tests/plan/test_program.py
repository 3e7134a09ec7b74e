"""The integer program: what can be reckoned by hand, and what it must keep to."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.plan.clusters import FOUR_LAYERS, free, link, workload

from halo_edge.plan.device import PROCESS_BYTES, Cluster, Device, SharedCores
from halo_edge.plan.memory import capacities
from halo_edge.plan.plan import Copies
from halo_edge.plan.prediction import Predictions
from halo_edge.plan.program import Kind, Program

WORK = workload(shape=FOUR_LAYERS)
DECODE, PREFILL = Kind(1, 48, 4.0), Kind(32, 32, 4.0)
N = 88
GB = {"memory_bytes_per_s": 1e9}


def program_of(*devices: Device, kinds: tuple[Kind, ...] = (DECODE,)) -> Program:
    named = tuple(replace(device, name=f"n{i}") for i, device in enumerate(devices))
    made = Cluster(named)
    copies = [Copies()] * len(named)
    return Program(Predictions(made, WORK), kinds, capacities(made, WORK), copies)


def device(bytes_per_s: float = 1e9, **settings: object) -> Device:
    return replace(Device("made", free(memory_bytes_per_s=bytes_per_s)), **settings)


def solved(program: Program, workers: list[int]) -> list[int]:
    counts = program.solve(workers, program.most)
    assert counts is not None and sum(counts) == N
    return counts


def test_speeds_share_in_proportion() -> None:
    program = program_of(device(1e9), device(1e9), device(0.5e9), device(0.25e9))
    assert solved(program, [1, 2, 3]) == [32, 32, 16, 8]


def test_only_who_is_asked_computes() -> None:
    program = program_of(*[device()] * 4)
    assert solved(program, []) == [N, 0, 0, 0]
    assert solved(program, [2]) == [44, 0, 44, 0]


def test_a_link_is_time_in_which_nothing_is_computed() -> None:
    one_s = FOUR_LAYERS.ffn_weights * FOUR_LAYERS.weight_bytes / 1e9 / N
    far = device(link=link(rtt_ms=10 * one_s * 1e3))
    assert solved(program_of(device(), far), [1]) == [49, 39]


def test_a_quota_is_not_used_up() -> None:
    """Beside its groups the root has attention to compute, and the worker waits meanwhile."""
    counts = solved(program_of(device(speed=0.25), device(speed=0.25)), [1])
    assert counts[0] < counts[1]
    assert solved(program_of(device(), device(speed=0.1)), [1])[1] < 20


def test_memory_bounds_what_has_no_storage() -> None:
    little = int(PROCESS_BYTES + 10.5 * WORK.shape.group_bytes)
    assert solved(program_of(device(), device(memory_bytes=little)), [1])[1] == 10
    quick = device(memory_bytes=little, storage_bytes_per_s=1e12)
    # A layer of four, and a tile, are read ahead into what fits.
    assert solved(program_of(device(), quick), [1])[1] == 4 * 10 - 4
    slow = device(memory_bytes=little, storage_bytes_per_s=3e8)
    assert 10 < solved(program_of(device(), slow), [1])[1] < 44


def test_no_room_is_no_plan() -> None:
    full = device(memory_bytes=0)
    program = program_of(full, full)
    assert program.solve([], program.most) is None
    assert program.solve([1], program.most) is None
    other = program_of(device(), full)
    assert other.solve([1], other.most) is None


def test_on_one_core_it_does_not_matter_who_computes() -> None:
    one = SharedCores("one")
    counts = solved(program_of(*[device(cores=one)] * 3), [1, 2])
    assert all(counts[1:])


def test_several_kinds_of_rounds_are_weighed() -> None:
    """One device is quick to stream weights, the other to multiply them with many tokens."""
    quick = Device("a", free(memory_bytes_per_s=4e9, flop_per_s=1e10))
    many = Device("b", free(memory_bytes_per_s=1e9, flop_per_s=4e10))
    decode = solved(program_of(quick, many), [1])
    prefill = solved(program_of(quick, many, kinds=(PREFILL,)), [1])
    both = solved(program_of(quick, many, kinds=(DECODE, PREFILL)), [1])
    assert decode[0] > both[0] >= prefill[0]


def test_burdens() -> None:
    program = program_of(Device("n0", free(send_s=1e-3, receive_s=1e-4)), device(), device())
    assert program.costs_s[1:] == pytest.approx([2e-3 + 4e-4] * 2)
    assert program.nearest_s[1] == pytest.approx(program.nearest_s[2])

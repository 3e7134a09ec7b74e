"""The scheduler: what holds of every plan, and what a person would expect of some."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.plan.clusters import FOUR_LAYERS, cluster, link, worker, workload

from halo_edge.errors import HaloError
from halo_edge.lab.profiles import load_profile
from halo_edge.plan.criticality import Criticality
from halo_edge.plan.device import PROCESS_BYTES, Cluster, Device
from halo_edge.plan.losses import Losses
from halo_edge.plan.memory import capacities
from halo_edge.plan.plan import Plan, split
from halo_edge.plan.prediction import Predictions
from halo_edge.plan.schedule import Objective, Schedule, schedule
from halo_edge.plan.timeline import Timelines

WORK = workload(shape=FOUR_LAYERS)
N = FOUR_LAYERS.partition.n_groups
NATS = np.ones((4, N)) * np.linspace(0.02, 0.001, N)
PROFILES = {name: load_profile(name) for name in ("pi3", "pi4", "pi5")}


def sizes(found: Schedule) -> list[int]:
    return [len(share) for share in found.plan.shares]


@st.composite
def devices(draw: st.DrawFn) -> Device:
    group = WORK.shape.group_bytes
    memory = draw(st.none() | st.integers(0, 2 * N))
    return Device(
        "worker",
        PROFILES[draw(st.sampled_from(sorted(PROFILES)))],
        speed=draw(st.sampled_from([1.0, 0.5, 0.25])),
        memory_bytes=None if memory is None else int(PROCESS_BYTES + memory * group),
        storage_bytes_per_s=draw(st.none() | st.sampled_from([4e7, 4e8])),
        link=link(
            rtt_ms=draw(st.floats(0, 5)),
            mbit=draw(st.sampled_from([20.0, 100.0, 1000.0])),
            loss=draw(st.sampled_from([0.0, 0.01, 0.1, 0.3])),
        ),
    )


@settings(max_examples=15, deadline=None)
@given(st.lists(devices(), max_size=5), st.sampled_from([0.0, 0.01, 1.0]))
def test_whatever_the_devices(workers: list[Device], budget: float) -> None:
    known = workload(shape=FOUR_LAYERS, criticality=Criticality(NATS), kl_budget=budget)
    made = cluster(*workers)
    found = schedule(made, known)
    plan, prediction = found.plan, found.prediction
    # Every group once, and replicas within the others' (or `Plan` raises).
    assert sorted(g for share in plan.shares for g in share) == list(range(N))
    # No more in memory than there is room for, and from storage only where there is one.
    fits = capacities(made, known)
    for d, device in enumerate(made.devices):
        held = len(plan.resident_on(d)) + sum(map(len, plan.replicas_on(d)))
        assert held <= fits[d]
        assert plan.resident_on(d) == plan.shares[d] or device.storage_bytes_per_s
    # The more reliable, the more critical; the root first.
    losses = Losses(Timelines(made, known))
    order = sorted(plan.workers, key=lambda d: plan.shares[d].start)
    missing = [losses.missing(d, plan.copies_on(d)) for d in order]
    assert missing == sorted(missing)
    assert plan.shares[0].start == 0
    # Within the budget, and no worse than what needs no scheduler.
    assert prediction.damage_nats <= budget + 1e-9
    assert np.isfinite(prediction.tpot_s)
    predictions = Predictions(made, known)
    equal = split(N, [1.0] * plan.n_devices)
    if all(len(share) <= most for share, most in zip(equal.shares, fits, strict=True)):
        assert prediction.tpot_s <= predictions.tpot_s(equal) * (1 + 1e-9)
    alone = split(N, [1.0] + [0.0] * len(workers))
    assert prediction.tpot_s <= predictions.tpot_s(alone) * 1.002
    assert {out.name for out in found.left_out} == {
        made.devices[d].name for d in range(1, plan.n_devices) if not plan.shares[d]
    }


@given(st.permutations(range(6)), st.lists(st.floats(0, 1), min_size=6, max_size=6))
def test_sorting_puts_least_at_stake(order: list[int], missing: list[float]) -> None:
    """What the docstring proves: no other order of the same sizes has less at stake."""
    criticality, counts = NATS.sum(axis=0), [20, 5, 30, 3, 18, 12]

    def at_stake(order: list[int]) -> float:
        total, begin = 0.0, 0
        for d in order:
            total += missing[d] * criticality[begin : begin + counts[d]].sum()
            begin += counts[d]
        return total

    best = at_stake(sorted(order, key=lambda d: missing[d]))
    assert best <= at_stake(order) + 1e-12


def test_the_same_cluster_the_same_plan() -> None:
    made = cluster(worker("pi5", loss=0.05), worker("pi3"), worker())
    assert schedule(made, WORK).plan == schedule(made, WORK).plan


def test_between_programs_something_else_can_be_done() -> None:
    """Which changes nothing."""
    devices, turns = cluster(worker(), worker("pi5")), list[None]()
    found = schedule(devices, workload(), between=lambda: turns.append(None))
    assert found == schedule(devices, workload())
    assert len(turns) >= 3  # with both workers, with one, with none


def test_speeds() -> None:
    found = sizes(schedule(cluster(worker("pi5"), worker(), worker("pi3")), workload()))
    assert found[1] > found[0] > found[3]


def test_near_the_best_that_can_be_found_by_trying() -> None:
    made = cluster(worker(rtt_ms=1), worker(rtt_ms=1), worker("pi5", rtt_ms=4, loss=0.02))
    found, predictions = schedule(made, WORK), Predictions(made, WORK)
    counts = sizes(found)
    best_s = found.prediction.tpot_s
    for a in range(4):
        for b in range(4):
            for moved in (1, 4, 12):
                if a != b and counts[a] > moved:
                    tried = list(counts)
                    tried[a] -= moved
                    tried[b] += moved
                    best_s = min(best_s, predictions.tpot_s(split(N, tried)))
    assert found.prediction.tpot_s < 1.03 * best_s


class TestLeavingOut:
    def test_who_would_slow_the_others(self) -> None:
        made = cluster(worker("pi5", rtt_ms=0.5), worker("pi3", rtt_ms=60))
        found = schedule(made, WORK)
        assert sizes(found)[1] > 0 and sizes(found)[2] == 0
        (out,) = found.left_out
        assert out.name == "n2"
        assert out.tpot_s is not None and out.tpot_s > 1.5 * found.prediction.tpot_s

    def test_who_has_no_room(self) -> None:
        found = schedule(cluster(worker("pi5"), replace(worker("pi5"), memory_bytes=1)), WORK)
        (out,) = found.left_out
        assert (out.name, out.tpot_s) == ("n2", None)

    def test_with_far_devices_the_root_computes_alone(self) -> None:
        found = schedule(cluster(*[worker(rtt_ms=500)] * 3), WORK)
        assert sizes(found) == [N, 0, 0, 0]
        assert len(found.left_out) == 3


class TestMemory:
    def test_no_room_at_all(self) -> None:
        tiny = replace(worker(), memory_bytes=int(PROCESS_BYTES + 3 * WORK.shape.group_bytes))
        root = replace(cluster(tiny).root, memory_bytes=1)
        with pytest.raises(HaloError) as raised:
            schedule(cluster(tiny, tiny, root=root), WORK)
        assert "memory for 6 of the 88 neuron groups" in str(raised.value)
        assert "\n" not in str(raised.value)

    def test_more_devices_than_are_quick_where_the_model_needs_them(self) -> None:
        small = replace(
            worker(rtt_ms=5), memory_bytes=int(PROCESS_BYTES + 12 * WORK.shape.group_bytes)
        )
        root = replace(cluster(small).root, memory_bytes=1)
        made = cluster(*[small] * 12, root=root)
        found = schedule(made, WORK)
        assert sum(map(bool, sizes(found))) == -(-88 // 12)
        assert max(sizes(found)) == 12

    def test_what_does_not_fit_is_streamed(self) -> None:
        memory = int(PROCESS_BYTES + 20 * WORK.shape.group_bytes)
        quick = replace(worker("pi5"), memory_bytes=memory, storage_bytes_per_s=4e9)
        slow_root = replace(cluster(quick).root, profile=load_profile("pi3"))
        found = schedule(cluster(quick, root=slow_root), WORK)
        share, resident = found.plan.shares[1], found.plan.resident_on(1)
        assert len(share) > len(resident)
        # What is read ahead is in memory too: a layer's, and a tile.
        ahead = (len(share) - len(resident) + 4) / WORK.shape.n_layers
        assert len(resident) + ahead <= 20
        assert resident.start == share.start
        assert found.prediction.devices[1].load_s > 0

    def test_spare_memory_holds_replicas(self) -> None:
        found = schedule(cluster(*[worker(rtt_ms=0.1)] * 3), workload())
        held = [g for runs in found.plan.replicas for run in runs for g in run]
        assert sorted(held) == [g for share in found.plan.shares[1:] for g in share]


class TestObjectives:
    # One is quick to stream weights, the other to multiply them with many tokens.
    MADE = cluster(
        replace(worker(rtt_ms=0.2), profile=replace(load_profile("pi4"), flop_per_s=4e11)),
        replace(worker(rtt_ms=0.2), profile=replace(load_profile("pi4"), memory_bytes_per_s=2e10)),
    )

    def test_each_is_best_at_its_own(self) -> None:
        work = workload(shape=FOUR_LAYERS, prompt=64, answer=64)
        tpot, ttft, mix = (schedule(self.MADE, work, objective) for objective in Objective)

        def whole_s(found: Schedule) -> float:
            return found.prediction.ttft_s + 64 * found.prediction.tpot_s

        assert tpot.prediction.tpot_s < ttft.prediction.tpot_s
        assert ttft.prediction.ttft_s < tpot.prediction.ttft_s
        assert whole_s(mix) <= 1.005 * min(whole_s(tpot), whole_s(ttft))


def test_copies_follow_the_losses() -> None:
    found = schedule(cluster(worker(rtt_ms=2, loss=0.1), worker(rtt_ms=2)), workload())
    lossy, clean = found.plan.copies_on(1), found.plan.copies_on(2)
    assert lossy.x > 1 and lossy.partial > 1
    assert clean == (1, 1)


def test_64_devices_in_a_second() -> None:
    """CPU time, of all this process's threads; the wall clock depends on who else computes."""
    kinds = sorted(PROFILES)
    workers = [
        worker(kinds[i % 3], rtt_ms=0.2 + 0.05 * i, loss=0.001 * (i % 20)) for i in range(63)
    ]
    made = cluster(*workers)
    schedule(cluster(worker()), WORK)  # what is imported late
    began = time.process_time()
    found = schedule(made, workload())
    assert time.process_time() - began < 2.0
    assert isinstance(found.plan, Plan) and isinstance(found.cluster, Cluster)

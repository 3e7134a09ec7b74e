"""A step: its parts, and what quotas, shared cores and storage make of it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.plan.clusters import FOUR_LAYERS, cluster, free, worker, workload

from halo_edge.plan.device import Cluster, Device, SharedCores
from halo_edge.plan.plan import Plan, split
from halo_edge.plan.step import Part, Step, Steps
from halo_edge.plan.timeline import Timelines

WORK = workload(shape=FOUR_LAYERS)
N = FOUR_LAYERS.partition.n_groups


def step_of(cluster_: Cluster, plan: Plan | None = None) -> Step:
    plan = plan or split(N, [1.0] * len(cluster_.devices))
    nothing = [0.0] * plan.n_devices
    return Steps(Timelines(cluster_, WORK)).step(plan, 1, WORK.context, nothing, logits=True)


def test_parts_add_up() -> None:
    for lossy in (cluster(worker(loss=0.1), worker("pi3")), cluster()):
        step = step_of(lossy)
        assert sum(step.parts.values()) == pytest.approx(step.seconds)
        assert all(seconds >= 0 for seconds in step.parts.values())
        assert set(step.parts) == set(Part)


def test_alone_it_is_the_root_s_weights() -> None:
    step = step_of(Cluster((Device("n0", free(memory_bytes_per_s=1e9)),)))
    shape = FOUR_LAYERS
    weights = 4 * (shape.attention_weights + shape.ffn_weights) + shape.head_weights
    assert step.seconds == pytest.approx(weights * shape.weight_bytes / 1e9)
    assert step.parts[Part.COMPUTE] == pytest.approx(
        4 * shape.ffn_weights * shape.weight_bytes / 1e9
    )


def test_who_comes_last_is_waited_for() -> None:
    assert step_of(cluster(worker("pi5"), worker("pi3"))).waited_for == 2
    assert step_of(cluster(worker("pi5")), split(N, [10, 1])).waited_for == 0


def test_a_quota_that_is_all_used_sets_the_pace() -> None:
    """A device that computes all the time takes 1 / speed times as long."""
    root = Device("n0", free(memory_bytes_per_s=1e9))
    alone = step_of(Cluster((root,))).seconds
    slowed = step_of(Cluster((replace(root, speed=0.25),)))
    assert slowed.seconds == pytest.approx(4 * alone, rel=1e-4)
    idle = replace(worker(), speed=0.9)
    few = split(N, [80, 8])
    with_quota, without = step_of(cluster(idle), few), step_of(cluster(worker()), few)
    assert with_quota.seconds == pytest.approx(without.seconds, rel=0.01)


def test_one_core_is_no_faster_than_one_core() -> None:
    cores, made = SharedCores("one"), free(memory_bytes_per_s=1e9)
    shared = Cluster(tuple(Device(f"n{i}", made, cores=cores) for i in range(4)))
    alone = step_of(Cluster((Device("n0", made),))).seconds
    assert step_of(shared).seconds == pytest.approx(alone, rel=0.01)


class TestStorage:
    PLAN = Plan((range(44), range(44, 88)), resident=(range(44), range(44, 64)))

    def step(self, bytes_per_s: float | None) -> Step:
        return step_of(cluster(replace(worker(), storage_bytes_per_s=bytes_per_s)), self.PLAN)

    def test_what_does_not_stay_is_read_every_time(self) -> None:
        slow = self.step(40e6)
        assert slow.seconds == pytest.approx(24 * WORK.shape.group_bytes / 40e6)
        assert slow.waited_for == 1
        assert max(slow.parts, key=lambda part: slow.parts[part]) is Part.STORAGE

    def test_reading_hides_behind_computing(self) -> None:
        assert self.step(1e12).seconds == self.step(1e13).seconds
        assert self.step(1e12).parts[Part.STORAGE] == 0

    def test_without_storage_there_is_no_end(self) -> None:
        assert self.step(None).seconds == float("inf")

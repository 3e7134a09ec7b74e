"""Another plan for a large gain that lasts, and not often."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from tests.plan.clusters import cluster, worker, workload

from halo_edge.errors import HaloError
from halo_edge.plan.criticality import Criticality
from halo_edge.plan.device import PROCESS_BYTES, Cluster
from halo_edge.plan.plan import Plan, split
from halo_edge.plan.prediction import Predictions
from halo_edge.plan.replanning import (
    AGAIN_S,
    MAX_AGAIN_S,
    MOVED_BYTES_PER_S,
    SOON_S,
    STEADY_S,
    Replanning,
    moved,
    moving_s,
)
from halo_edge.plan.schedule import Schedule, schedule

WORKLOAD = workload()
FOUR = cluster(worker(), worker(), worker())


@pytest.fixture(autouse=True)
def remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same clusters come again and again."""
    known: dict[str, Schedule] = {}

    def schedule_once(cluster: Cluster, *rest: Any) -> Schedule:
        name = repr(cluster)
        if name not in known:
            known[name] = schedule(cluster, *rest)
        return known[name]

    monkeypatch.setattr("halo_edge.plan.replanning.schedule", schedule_once)


def slowed(quota: float, device: int = 1) -> Cluster:
    devices = list(FOUR.devices)
    devices[device] = replace(devices[device], speed=quota)
    return Cluster(tuple(devices))


def test_nothing_changes_where_nothing_has() -> None:
    replanning = Replanning(WORKLOAD)
    plan = replanning.plan(FOUR).plan
    for now in range(100):
        assert replanning.better(FOUR, plan, float(now)) is None


def test_a_device_that_slows_down() -> None:
    """After it has for some time; and the new plan is much better than the old one was then."""
    replanning = Replanning(WORKLOAD)
    plan = replanning.plan(FOUR).plan
    replanning.planned(0.0)
    slow = slowed(0.25)
    assert replanning.better(slow, plan, 100.0) is None
    found = replanning.better(slow, plan, 100.0 + STEADY_S)
    assert found is not None
    before_s = Predictions(slow, WORKLOAD).tpot_s(plan)
    assert found.prediction.tpot_s < 0.8 * before_s
    assert len(found.plan.shares[1]) < len(plan.shares[1])


def test_a_device_that_alternates_every_second() -> None:
    replanning = Replanning(WORKLOAD)
    plan = replanning.plan(FOUR).plan
    for now in range(120):
        assert replanning.better(slowed(0.25) if now % 2 else FOUR, plan, float(now)) is None


def test_a_device_that_alternates_slowly() -> None:
    """Every 8 s another is slow: at most one plan a minute, after the first few."""
    replanning = Replanning(WORKLOAD)
    plan, times = replanning.plan(FOUR).plan, []
    for now in range(1200):
        found = replanning.better(slowed(0.2, 1 + now // 8 % 2), plan, float(now))
        if found is not None:
            plan = found.plan
            times.append(now)
            replanning.planned(float(now))
    gaps = [b - a for a, b in itertools.pairwise(times)]
    assert gaps
    assert min(gaps) >= AGAIN_S
    assert all(gap >= MAX_AGAIN_S for gap in gaps[4:])


def test_after_a_quiet_time_the_next_plan_may_come_soon() -> None:
    replanning = Replanning(WORKLOAD)
    plan = replanning.plan(FOUR).plan
    for now in (0.0, 12.0, 35.0):
        replanning.planned(now)
    replanning.planned(1000.0)
    slow = slowed(0.2)
    assert replanning.better(slow, plan, 1000.0 + AGAIN_S - STEADY_S - 1) is None
    assert replanning.better(slow, plan, 1000.0 + AGAIN_S + 1) is not None


def test_a_small_gain_is_not_worth_it() -> None:
    replanning = Replanning(WORKLOAD)
    plan = replanning.plan(FOUR).plan
    for now in range(20):
        assert replanning.better(slowed(0.97), plan, float(now)) is None


def test_a_gain_that_costs_more_is_not_worth_it() -> None:
    """Over 1 Mbit/s weights take an hour."""
    thin = cluster(*(worker(mbit=1.0) for _ in range(3)))
    equal = split(WORKLOAD.shape.partition.n_groups, [1.0, 0.5, 0.25, 0.25])
    replanning = Replanning(WORKLOAD)
    found = replanning.plan(thin)
    now_s = Predictions(thin, WORKLOAD).tpot_s(equal)
    gains = found.prediction.tpot_s < 0.9 * now_s
    if gains and moving_s(thin, WORKLOAD, equal, found.plan) > 600:
        for now in range(20):
            assert replanning.better(thin, equal, float(now)) is None
    assert moving_s(thin, WORKLOAD, equal, split(88, [0.25, 0.25, 0.5, 1])) > 600


def test_a_protocol_that_turns_out_to_be_cheaper() -> None:
    """At first so dear that the root does all; the plan for what it is then brings workers in."""

    def with_protocol(factor: float) -> Cluster:
        names = ("encode_s", "round_s", "serve_s", "seal_s", "send_s", "receive_s", "wake_s")
        devices = []
        for device in FOUR.devices:
            profile = device.profile
            dearer: Any = {name: factor * getattr(profile, name) for name in names}
            devices.append(replace(device, profile=replace(profile, **dearer)))
        return Cluster(tuple(devices))

    replanning = Replanning(WORKLOAD)
    dear = with_protocol(100)
    plan = replanning.plan(dear).plan
    assert not plan.workers
    assert replanning.better(dear, plan, 0.0) is None
    assert replanning.better(FOUR, plan, 1.0) is None
    found = replanning.better(FOUR, plan, 1.0 + STEADY_S)
    assert found is not None and found.plan.workers


def test_estimates_that_move_do_not_have_it_looked_for_every_second(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It takes the root time that tokens need. What has changed by half is looked at at once."""
    looked: list[Cluster] = []

    def counted(cluster: Cluster, *rest: Any) -> Schedule:
        looked.append(cluster)
        return schedule(cluster, *rest)

    monkeypatch.setattr("halo_edge.plan.replanning.schedule", counted)
    replanning = Replanning(WORKLOAD)
    plan = replanning.plan(FOUR).plan
    seen = {}
    for now in range(int(3 * SOON_S)):
        speed = 0.4 * 0.85**now  # by a quarter in two seconds
        replanning.better(slowed(speed), plan, float(now))
        seen[now] = len(looked)
        looked.clear()
    often = [now for now, times in seen.items() if times]
    assert 2 <= len(often) <= 4
    assert all(later - earlier >= 4 for earlier, later in itertools.pairwise(often))  # half in 4 s
    replanning.better(slowed(0.4), plan, 3 * SOON_S)
    assert looked


def test_what_moves() -> None:
    before, after = split(12, [1, 1, 1, 1]), split(12, [1, 2, 0, 1])
    assert [(each.device, each.groups) for each in moved(before, after)] == [(1, 3)]
    held = Plan(before.shares, replicas=((), (range(6, 9),), (), ()))
    assert moved(held, after) == []
    assert moved(before, held) == []
    assert moved(before, before) == []
    took_s = moving_s(FOUR, WORKLOAD, before, after)
    assert took_s == pytest.approx(3 * WORKLOAD.shape.group_bytes / MOVED_BYTES_PER_S)


def test_no_plan() -> None:
    small = replace(FOUR, devices=tuple(replace(d, memory_bytes=1) for d in FOUR.devices))
    replanning = Replanning(WORKLOAD)
    plan = replanning.plan(FOUR).plan
    with pytest.raises(HaloError, match="memory"):
        replanning.plan(small)
    with pytest.raises(HaloError, match="memory"):
        replanning.better(small, plan, 0.0)


def test_what_is_there_already_is_worth_more_than_a_newcomer() -> None:
    """A worker slows down. Instead of a fourth one, which has nothing, the others take its part."""
    five = cluster(worker(), worker(), worker(), worker(mbit=40))
    four = replace(five, devices=five.devices[:4])
    replanning = Replanning(WORKLOAD)
    plan = replanning.plan(four).plan.of_places([0, 1, 2, 3, None])
    devices = list(five.devices)
    devices[1] = replace(devices[1], speed=0.1)
    slow = replace(five, devices=tuple(devices))
    replanning.better(slow, plan, 0.0)
    found = replanning.better(slow, plan, STEADY_S)
    assert found is not None
    assert not found.plan.shares[4]
    assert "n4" in {each.name for each in found.left_out}
    before_s = Predictions(slow, WORKLOAD).tpot_s(plan)
    assert found.prediction.tpot_s < 0.8 * before_s


def test_critical_groups_leave_a_link_that_has_turned_bad() -> None:
    """No time is saved by that; but only where damage may be done, and somebody knows how much."""
    shape = replace(WORKLOAD.shape, n_layers=2)
    nats = np.linspace(1e-2, 1e-5, shape.partition.n_groups)
    known = Criticality(np.stack([nats] * shape.n_layers))
    memory = PROCESS_BYTES + 30 * shape.group_bytes
    workers = [replace(worker(loss=loss), memory_bytes=int(memory)) for loss in (0.15, 0.0, 0.0)]
    bad = cluster(*workers)
    good = cluster(*(replace(each, link=worker().link) for each in workers))
    for budget in (0.0, 0.005):
        replanning = Replanning(replace(WORKLOAD, shape=shape, kl_budget=budget, criticality=known))
        plan = replanning.plan(good).plan
        plan = Plan(_first_to(plan, 1))
        assert replanning.better(bad, plan, 100.0) is None
        found = replanning.better(bad, plan, 100.0 + STEADY_S)
        if not budget:
            assert found is None
            continue
        assert found is not None
        lossy, *others = (found.plan.shares[d] for d in (1, 2, 3))
        assert all(other.stop <= lossy.start for other in others if lossy and other)


def _first_to(plan: Plan, device: int) -> tuple[range, ...]:
    """As many groups each, the most critical on that device."""
    begin, shares = 0, list(plan.shares)
    for d in sorted(range(plan.n_devices), key=lambda d: d != device):
        shares[d] = range(begin, begin + len(plan.shares[d]))
        begin += len(plan.shares[d])
    return tuple(shares)

"""Shares that were asked for, in what memory there is."""

from __future__ import annotations

from typing import Any

import pytest

from halo_edge.cluster.messages import CONTROL_VERSION, WorkerInfo
from halo_edge.cluster.planner import FixedShares, check_split, shares_in_words
from halo_edge.errors import HaloError
from halo_edge.lab.shapes import read_shape
from halo_edge.plan.admission import GONE_AFTER_S
from halo_edge.plan.device import PROCESS_BYTES
from halo_edge.plan.plan import Plan
from halo_edge.sync.ids import ROOT, DeviceId

SHAPE = read_shape("tinyllama-1.1b")
A, B = DeviceId(1), DeviceId(3)


def info(name: str, groups: float | None = None) -> WorkerInfo:
    """With memory for so many groups of every layer."""
    usual: dict[str, Any] = {"version": "1", "host": name, "addresses": ["127.0.0.1"], "port": 1}
    memory = None if groups is None else int(PROCESS_BYTES + groups * SHAPE.group_bytes)
    return WorkerInfo(
        control_version=CONTROL_VERSION,
        worker=name,
        machine=name,
        cores=[0],
        threads=1,
        cpu_quota=None,
        memory_bytes=memory,
        session="",
        **usual,
    )


def test_alike_for_all_who_are_there() -> None:
    plan = FixedShares(SHAPE, None).plan({A: info("a"), B: info("b", 40)}).plan
    assert [len(share) for share in plan.shares] == [29, 30, 0, 29]
    assert [plan.resident_on(d) for d in range(4)] == list(plan.shares)


def test_as_asked_for() -> None:
    shares = FixedShares(SHAPE, [1, 2, 1])
    assert [len(share) for share in shares.plan({A: info("a")}).plan.shares] == [29, 59]
    with_a_stranger = shares.plan({A: info("a"), B: info("b")}).plan
    assert [len(share) for share in with_a_stranger.shares] == [29, 59, 0, 0]
    with pytest.raises(HaloError, match="--split"):
        FixedShares(SHAPE, [0, 0, 1]).plan({A: info("a")})


def test_what_does_not_fit_is_read_from_disk() -> None:
    plan = FixedShares(SHAPE, None).plan({A: info("a", 22.5)}).plan
    share, resident = plan.shares[A], plan.resident_on(A)
    assert len(share) == 44
    assert 15 < len(resident) < 22
    assert resident == share[: len(resident)]


def test_too_little_memory_for_that() -> None:
    with pytest.raises(HaloError, match="worker a has too little memory for its share"):
        FixedShares(SHAPE, None).plan({A: info("a", 1.5)})


def test_check_split() -> None:
    check_split(None, 3)
    check_split([1, 1], 1)
    with pytest.raises(HaloError, match="--split names 3 shares, but there are 2 devices"):
        check_split([1, 1, 1], 1)


def test_words() -> None:
    plan = Plan((range(0), range(3, 4), range(0), range(3)))
    assert shares_in_words(plan, {ROOT: "root", A: "a", B: "b"}) == "a 25 %, b 75 %"


def test_replicas_where_they_are_asked_for() -> None:
    workers = {A: info("a"), B: info("b", 60)}
    assert not any(FixedShares(SHAPE, None).plan(workers).plan.replicas)
    plan = FixedShares(SHAPE, None, 1).plan(workers).plan
    assert plan.replicas == ((), (plan.shares[B],), (), (plan.shares[A],))
    tight = FixedShares(SHAPE, None, 1).plan({A: info("a"), B: info("b", 40)}).plan
    assert tight.replicas == ((), (plan.shares[B],), (), ())


def test_what_was_inherited_is_shared_out_anew_later() -> None:
    shares, workers = FixedShares(SHAPE, None, 1), {A: info("a"), B: info("b")}
    plan = shares.plan(workers).plan
    assert shares.better(plan, workers, 0.0) is None
    shares.planned(0.0)
    assert shares.better(plan, workers, 1000.0) is None
    left = {A: workers[A]}
    found = shares.inherited(plan, left)
    assert found is not None
    assert [len(share) for share in found.plan.shares] == [29, 59, 0, 0]
    assert shares.better(found.plan, left, GONE_AFTER_S - 1) is None
    better = shares.better(found.plan, left, GONE_AFTER_S)
    assert better is not None
    assert [len(share) for share in better.plan.shares] == [44, 44]
    assert FixedShares(SHAPE, None).inherited(Plan(plan.shares), left) is None

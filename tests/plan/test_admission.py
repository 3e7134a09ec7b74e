"""Who the next plan may count on, in virtual time."""

from __future__ import annotations

import itertools
import math

import pytest

from halo_edge.plan.admission import AGAIN_AFTER_S, GONE_AFTER_S, RETRY_AFTER_S, Admission


@pytest.fixture
def two() -> Admission:
    return Admission((1, 2))


def plan(admission: Admission, now: float) -> frozenset[int] | None:
    members = admission.due(now)
    if members is not None:
        admission.planned(members, now)
    return members


def test_nothing_is_due_while_nothing_changes(two: Admission) -> None:
    assert two.due_at() == math.inf
    assert two.due(1e9) is None


def test_a_new_device_is_wanted_at_once(two: Admission) -> None:
    two.came(3, has_part=False)
    assert plan(two, 5.0) == {1, 2, 3}
    assert two.due_at() == math.inf


def test_a_device_that_left_is_given_time(two: Admission) -> None:
    two.left(1, 100.0)
    assert two.due(100.0) is None
    assert two.due_at() == 100.0 + GONE_AFTER_S
    assert plan(two, two.due_at()) == {2}
    assert two.due_at() == math.inf


def test_a_device_that_was_started_again_is_let_in(two: Admission) -> None:
    two.left(1, 100.0)
    two.came(1, has_part=False)
    assert plan(two, 100.5) == {1, 2}


def test_a_device_that_only_seemed_to_leave_changes_nothing(two: Admission) -> None:
    two.left(1, 100.0)
    two.came(1, has_part=True)
    assert two.due_at() == math.inf


def test_who_is_away_is_not_planned_with(two: Admission) -> None:
    two.left(1, 100.0)
    two.came(3, has_part=False)
    assert plan(two, 101.0) == {2, 3}


def test_what_has_a_part_in_no_plan_is_let_in(two: Admission) -> None:
    """It kept its part, but meanwhile there was a plan without it."""
    two.left(1, 100.0)
    plan(two, 200.0)
    two.came(1, has_part=True)
    assert plan(two, 201.0) == {1, 2}


def test_a_device_that_alternates_does_not_make_plans_flap(two: Admission) -> None:
    plans = []
    for second in range(100, 400):
        if second % 2:
            two.left(1, second)
        else:
            two.came(1, has_part=False)
        if plan(two, second) is not None:
            plans.append(second)
    assert 2 <= len(plans) <= 1 + 300 / AGAIN_AFTER_S
    assert all(b - a >= AGAIN_AFTER_S for a, b in itertools.pairwise(plans))


def test_a_plan_that_failed_is_tried_again_later_and_later(two: Admission) -> None:
    two.came(3, has_part=False)
    assert two.due(10.0) == {1, 2, 3}
    two.failed(10.0)
    assert two.due_at() == 10.0 + RETRY_AFTER_S
    two.failed(20.0)
    assert two.due_at() == 20.0 + 2 * RETRY_AFTER_S
    for _ in range(2000):
        two.failed(30.0)
    assert two.due_at() < 30.0 + AGAIN_AFTER_S * 2
    assert plan(two, two.due_at()) == {1, 2, 3}


def test_who_came_again_while_the_plan_was_made_has_no_part_in_it(two: Admission) -> None:
    two.came(3, has_part=False)
    members = two.due(10.0)
    assert members == {1, 2, 3}
    two.left(2, 11.0)
    two.came(2, has_part=False)
    two.planned(members, 12.0)
    assert plan(two, two.due_at()) == {1, 2, 3}


def replace(admission: Admission, now: float) -> frozenset[int]:
    left = admission.replaceable(now)
    if left:
        admission.replaced(left, now)
    return left


def test_who_left_may_be_replaced_at_once(two: Admission) -> None:
    two.left(1, 100.0)
    assert replace(two, 100.0) == {1}
    assert two.due_at() == math.inf
    assert replace(two, 101.0) == frozenset()


def test_who_was_replaced_is_let_in_again_later(two: Admission) -> None:
    two.left(1, 100.0)
    replace(two, 100.0)
    two.came(1, has_part=True)
    assert two.due_at() == 100.0 + AGAIN_AFTER_S
    assert plan(two, two.due_at()) == {1, 2}


def test_who_was_just_let_in_is_not_replaced(two: Admission) -> None:
    """But planned without, if it stays away."""
    two.came(3, has_part=False)
    plan(two, 100.0)
    two.left(3, 101.0)
    assert two.replaceable(102.0) == frozenset()
    assert plan(two, two.due_at()) == {1, 2}
    assert two.replaceable(1000.0) == frozenset()


def test_a_device_that_alternates_is_replaced_once_a_minute_at_most(two: Admission) -> None:
    plans = []
    for second in range(100, 700):
        if second % 2:
            two.left(1, second)
        else:
            two.came(1, has_part=False)
        if replace(two, second) or plan(two, second) is not None:
            plans.append(second)
    assert 5 <= len(plans) <= 1 + 600 / AGAIN_AFTER_S
    assert all(b - a >= AGAIN_AFTER_S for a, b in itertools.pairwise(plans))


def test_where_nobody_computes_for_it_there_is_a_plan_at_once(two: Admission) -> None:
    two.left(1, 100.0)
    two.needed(1, 100.1)
    assert plan(two, 100.1) == {2}
    two.needed(2, 200.0)  # it does not answer
    assert two.replaceable(200.0) == {2}
    assert plan(two, 200.0) == frozenset()
    two.needed(7, 300.0)
    assert two.due_at() == math.inf


def test_a_replacement_that_failed_is_tried_again(two: Admission) -> None:
    two.left(1, 100.0)
    two.failed(100.0)
    assert two.replaceable(100.1) == frozenset()
    assert two.replaceable(100.0 + RETRY_AFTER_S) == {1}

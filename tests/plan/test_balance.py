"""When shares change, and to what; in virtual time."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from halo_edge.plan.balance import AGAIN_AFTER_S, STEADY_S, WORTH, Balance, gain

EQUAL = {0: 100, 1: 100, 2: 100}
shares = st.dictionaries(st.integers(0, 6), st.integers(0, 10_000), min_size=1)


def balance(*speeds: float) -> Balance:
    found = Balance()
    for device, speed in enumerate(speeds):
        found.measured(device, speed)
    return found


def test_the_gain_of_a_slow_device() -> None:
    """At a quarter of the others' speed it takes 4, where all could be done after 300 / 225."""
    assert gain(EQUAL, {0: 100, 1: 100, 2: 25}) == pytest.approx(1 - 300 / 225 / 4)
    assert gain({0: 100, 1: 100, 2: 25}, {0: 100, 1: 100, 2: 25}) == pytest.approx(0)
    assert gain(EQUAL, {0: 100, 1: 100}) == 0
    assert gain({}, {}) == 0
    assert gain({0: 0}, {0: 1.0}) == 0


@given(shares, st.data())
def test_shares_by_speed_gain_nothing_more(neurons: dict[int, int], data: st.DataObject) -> None:
    speeds = {device: data.draw(st.floats(1e-3, 1e9)) for device in neurons}
    assert 0 <= gain(neurons, speeds) + 1e-9 <= 1 + 1e-9
    in_proportion = {device: round(1e12 * speed) for device, speed in speeds.items()}
    assert gain(in_proportion, speeds) == pytest.approx(0, abs=1e-6)


def test_a_gain_has_to_last() -> None:
    uneven = balance(100, 100, 25)
    assert not uneven.due(EQUAL, 10.0)
    assert not uneven.due(EQUAL, 10.0 + STEADY_S / 2)
    uneven.measured(2, 100)
    assert not uneven.due(EQUAL, 10.5 + STEADY_S)
    uneven.measured(2, 25)
    assert not uneven.due(EQUAL, 11.0 + STEADY_S)
    assert uneven.due(EQUAL, 11.0 + 2 * STEADY_S)


def test_a_small_gain_is_none() -> None:
    slower = 100 * (1 - WORTH / 2)
    even = balance(100, 100, slower)
    assert not any(even.due(EQUAL, float(now)) for now in range(100))


def test_a_device_that_alternates_does_not_make_plans_flap() -> None:
    changing, changes, neurons = balance(100, 100, 100), [], EQUAL
    for second in range(600):
        changing.measured(2, 20 if second // 10 % 2 else 100)
        if changing.due(neurons, float(second)):
            weights = changing.weights(neurons)
            neurons = {device: round(weight) for device, weight in weights.items()}
            changing.planned(float(second))
            changes.append(second)
    assert changes
    assert all(b - a >= AGAIN_AFTER_S for a, b in pairwise(changes))


def test_what_is_not_known_is_taken_for_average() -> None:
    assert balance(100, 50).weights([0, 1, 2]) == {0: 100, 1: 50, 2: 75}
    assert Balance().weights([0, 1]) == {0: 1, 1: 1}
    assert balance(100, 0.0, math.inf, math.nan).speeds == {0: 100}

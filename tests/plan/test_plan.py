"""Plans give every group to one device, in the proportions asked for."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from halo_edge.errors import HaloError
from halo_edge.plan.plan import Copies, Plan, split

# Any floats that are not negative: denormal, enormous, or zero.
WEIGHTS = st.lists(
    st.floats(0, allow_infinity=False, allow_nan=False) | st.integers(0, 10),
    min_size=1,
    max_size=16,
).filter(any)


@given(st.integers(0, 500), WEIGHTS)
@example(2, [1, 2, 1])  # 0.5, 1, 0.5: rounding halves to even would be off by a whole group
@example(24, [0.1, 0.2, 0.7, 0])
@example(7, [1e308, 1e308, 1e308])
def test_split(n_groups: int, weights: list[float]) -> None:
    plan = split(n_groups, weights)
    assert [group for share in plan.shares for group in share] == list(range(n_groups))
    assert plan.n_devices == len(weights)
    assert plan.n_groups == n_groups
    total = sum(map(Fraction, weights))
    for share, weight in zip(plan.shares, weights, strict=True):
        assert abs(len(share) - n_groups * Fraction(weight) / total) < 1
        assert weight > 0 or len(share) == 0


@pytest.mark.parametrize("devices", [1, 2, 3, 4, 5, 7, 8])
@pytest.mark.parametrize("n_groups", [24, 88, 3])
def test_equal_split(devices: int, n_groups: int) -> None:
    sizes = {len(share) for share in split(n_groups, [1.0] * devices).shares}
    assert max(sizes) - min(sizes) <= 1


def test_by_hand() -> None:
    assert split(8, [1, 1, 1, 1]).shares == (range(2), range(2, 4), range(4, 6), range(6, 8))
    assert split(3, [1, 1]).shares == (range(2), range(2, 3))  # halves go to the earlier device
    assert split(8, [5, 0, 3]).shares == (range(5), range(5, 5), range(5, 8))
    assert split(24, [0, 1]).shares == (range(0), range(24))


@pytest.mark.parametrize(
    "weights",
    [
        [],
        [0, 0],
        [0.0],
        [-1, 2],
        [1, -0.5],
        [math.nan, 1],
        [1, math.nan],
        [math.inf, 1],
        [-math.inf],
    ],
)
def test_bad_weights(weights: list[float]) -> None:
    with pytest.raises(HaloError, match="--split needs one share of 0 or more per device"):
        split(8, weights)


@pytest.mark.parametrize(
    "shares",
    [
        (range(0, 3), range(4, 6)),
        (range(0, 3), range(2, 6)),
        (range(1, 4),),
        (range(0, 3), range(0, 3), range(3, 4)),
        (range(0, 6, 2), range(1, 6, 2)),
    ],
)
def test_plan_that_is_none(shares: tuple[range, ...]) -> None:
    with pytest.raises(ValueError, match="every neuron group to exactly one device"):
        Plan(shares)


def test_runs_in_any_order() -> None:
    plan = Plan((range(3, 6), range(0, 3), range(6, 6)))
    assert (plan.n_groups, plan.n_devices, plan.workers) == (6, 3, (1,))


class TestWhatElseAPlanSays:
    SHARES = (range(0, 3), range(3, 6), range(6, 8))

    def test_of_itself_nothing(self) -> None:
        plan = Plan(self.SHARES)
        assert plan.copies_on(1) == Copies(1, 1)
        assert plan.resident_on(1) == range(3, 6)
        assert plan.replicas_on(1) == ()

    def test_something(self) -> None:
        plan = Plan(
            self.SHARES,
            copies=(Copies(), Copies(2, 3), Copies()),
            resident=(range(0, 3), range(3, 4), range(6, 6)),
            replicas=((), (range(0, 2), range(6, 8)), ()),
        )
        assert plan.copies_on(1).partial == 3
        assert plan.resident_on(1) == range(3, 4)
        assert plan.replicas_on(1) == (range(0, 2), range(6, 8))

    @pytest.mark.parametrize(
        ("settings", "said"),
        [
            ({"copies": (Copies(),)}, "of every device"),
            ({"resident": (range(0, 3), range(3, 6))}, "of every device"),
            ({"resident": (range(0, 3), range(4, 6), range(6, 8))}, "the first of"),
            ({"resident": (range(0, 3), range(3, 7), range(6, 8))}, "the first of"),
            ({"replicas": ((), (range(5, 8),), ())}, "no group twice"),
            ({"replicas": ((), (range(0, 2), range(1, 3)), ())}, "no group twice"),
            ({"replicas": ((), (range(7, 9),), ())}, "groups that there are"),
        ],
    )
    def test_what_does_not_fit(self, settings: dict[str, Any], said: str) -> None:
        with pytest.raises(ValueError, match=said):
            Plan(self.SHARES, **settings)


def test_other_places() -> None:
    plan = Plan(
        (range(2, 5), range(2), range(5, 9)),
        (Copies(), Copies(2, 1), Copies()),
        (range(2, 3), range(2), range(5, 9)),
        ((), (range(5, 6),), ()),
    )
    moved = plan.of_places([0, None, 2, 1])
    assert moved.shares == (range(2, 5), range(0), range(5, 9), range(2))
    assert moved.workers == (2, 3)
    assert moved.copies_on(3) == Copies(2, 1)
    assert moved.resident_on(0) == range(2, 3)
    assert moved.replicas_on(3) == (range(5, 6),)
    assert moved.of_places([0, 3, 2]) == plan
    with pytest.raises(ValueError, match="every neuron group"):
        plan.of_places([0, None, 2])

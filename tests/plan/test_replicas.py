"""Who holds whose groups as well, and who goes on with them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from halo_edge.plan.plan import Plan, split
from halo_edge.plan.replanning import moved
from halo_edge.plan.replicas import MAX_REPLICAS, inherited, replicas

ALL = 1000
"""Room for everything."""
FOUR = (range(8), range(8, 16), range(16, 32), range(32, 40))
"""The root's, and three workers'."""


def test_neighbours_hold_what_they_would_go_on_with() -> None:
    """The first worker's groups with the one behind it, the root being no neighbour; the middle
    one's with both, cut where a tile of four ends; the last one's with the one before."""
    held = replicas(FOUR, [ALL] * 4, 4)
    assert held == ((), (range(16, 24),), (range(8, 16), range(32, 40)), (range(24, 32),))


def test_in_proportion_to_what_they_have() -> None:
    shares = (range(8), range(8, 20), range(20, 32), range(32, 36))
    held = replicas(shares, [ALL] * 4, 1)
    assert held[1] == (range(20, 29),)
    assert held[3] == (range(29, 32),)


def test_only_as_much_as_fits() -> None:
    assert replicas(FOUR, [ALL, 8 + 3, 16, ALL], 4)[1:] == ((range(16, 19),), (), (range(19, 32),))
    # The most critical are held first.
    assert replicas(FOUR, [ALL, 8, 16 + 8, 8], 4)[1:] == ((), (range(8, 16),), ())
    assert replicas(FOUR, [8, 8, 16, 8], 4) == ((),) * 4


def test_twice() -> None:
    held = replicas(FOUR, [ALL] * 4, 4, MAX_REPLICAS)
    assert held[1] == held[3] == (range(16, 32),)
    # Once, where there is no room for that.
    assert replicas(FOUR, [ALL, ALL, ALL, 16], 4, MAX_REPLICAS)[3] == (range(24, 32),)


def test_never() -> None:
    assert replicas(FOUR, [ALL] * 4, 4, 0) == ((),) * 4
    assert replicas((range(8), range(8, 16)), [ALL] * 2, 4) == ((), ())


def with_replicas(shares: Sequence[range], capacity: Sequence[int], copies: int = 1) -> Plan:
    return Plan(tuple(shares), replicas=replicas(shares, capacity, 4, copies))


@pytest.mark.parametrize("copies", [1, 2])
@pytest.mark.parametrize("gone", [1, 2, 3])
def test_who_is_gone_is_inherited_from(gone: int, copies: int) -> None:
    plan = with_replicas(FOUR, [ALL] * 4, copies)
    found = inherited(plan, [gone], 4)
    assert found is not None
    assert not found.shares[gone]
    assert found.shares[0] == FOUR[0]
    assert moved(plan, found) == []
    if gone == 2:
        assert found.shares[1:] == (range(8, 24), range(24, 24), range(24, 40))


def test_not_without_replicas() -> None:
    assert inherited(Plan(FOUR), [2], 4) is None
    plan = with_replicas(FOUR, [ALL, 8, ALL, ALL])
    assert inherited(plan, [3], 4) is not None
    # One that has what another would need is gone, too.
    assert inherited(plan, [1, 2], 4) is None


def test_the_root_inherits_nothing() -> None:
    assert inherited(split(8, [1, 1]), [1], 4) is None


def test_two_at_once() -> None:
    shares = (range(8), *(range(8 * i, 8 * i + 8) for i in range(1, 6)))
    found = inherited(with_replicas(shares, [ALL] * 6), [2, 4], 4)
    assert found is not None
    assert [len(share) for share in found.shares] == [8, 12, 0, 16, 0, 12]


def test_what_was_streamed_stays_so() -> None:
    resident = (FOUR[0], FOUR[1], FOUR[2], range(32, 34))
    plan = replace(with_replicas(FOUR, [ALL, ALL, ALL, 2]), resident=resident)
    found = inherited(plan, [1], 4)
    assert found is not None
    assert found.resident_on(2) == found.shares[2] == range(8, 32)
    assert found.resident_on(3) == range(32, 34)


@given(
    st.lists(st.integers(0, 9), min_size=2, max_size=6).filter(any),
    st.lists(st.integers(0, 60)),
    st.sampled_from([1, 4]),
    st.integers(0, MAX_REPLICAS),
    st.data(),
)
def test_whatever_the_shares(
    weights: list[int], more: list[int], tile: int, copies: int, data: st.DataObject
) -> None:
    shares = split(40, weights).shares
    capacity = [len(share) + spare for share, spare in zip(shares, [*more, *[0] * 6], strict=False)]
    capacity = capacity[: len(shares)]
    plan = Plan(shares, replicas=replicas(shares, capacity, tile, copies))  # raises for nonsense
    assert not plan.replicas[0]
    for share, fits, runs in zip(shares, capacity, plan.replicas, strict=True):
        assert len(share) + sum(map(len, runs)) <= fits
    every = [group for each in plan.replicas for run in each for group in run]
    assert all(every.count(group) <= copies for group in every)
    gone = data.draw(st.sets(st.sampled_from(range(1, len(shares)))))
    found = inherited(plan, gone, tile)
    if found is not None:
        assert not gone & {*found.workers}
        assert moved(plan, found) == []

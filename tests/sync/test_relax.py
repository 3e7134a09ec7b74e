"""Whom to go on without."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from halo_edge.sync.budget import Budget, SequenceKey
from halo_edge.sync.ids import DeviceId
from halo_edge.sync.relax import (
    K_INITIAL_PRICE,
    K_MAX_PRICE,
    K_MIN_PRICE,
    Candidate,
    Price,
    choose,
    together,
)

ONE = SequenceKey(1)


def candidate(device: int, wait_s: float, nats: float) -> Candidate:
    return Candidate(DeviceId(device), wait_s, {ONE: nats})


def rich(nats: float = 1.0) -> Budget:
    budget = Budget(nats)
    budget.earn(ONE, 1)
    return budget


def devices(chosen: list[Candidate]) -> list[int]:
    return [c.device for c in chosen]


def test_cheap_damage_buys_a_long_wait() -> None:
    assert devices(choose([candidate(3, 0.02, 0.001)], rich(), Price())) == [3]


def test_damage_dearer_than_the_time_is_waited_for() -> None:
    assert choose([candidate(3, 0.002, 0.5)], rich(), Price()) == []


def test_giving_up_one_saves_only_the_time_until_the_next() -> None:
    slow, slower = candidate(1, 0.100, 0.5), candidate(2, 0.101, 0.005)
    assert choose([slow, slower], rich(), Price()) == []  # 1 ms for 0.005 nats
    assert devices(choose([candidate(1, 0.1, 0.01), slower], rich(), Price())) == [2, 1]


def test_the_longest_with_the_least_to_lose_goes_first() -> None:
    chosen = choose([candidate(1, 0.010, 0.9), candidate(2, 0.200, 0.001)], rich(), Price())
    assert devices(chosen) == [2]


def test_what_the_budget_does_not_cover_is_waited_for_and_lowers_the_price() -> None:
    price = Price()
    assert choose([candidate(1, 0.5, 0.02)], rich(0.01), price) == []
    assert price.nats_per_s < K_INITIAL_PRICE


def test_a_full_bucket_raises_the_price_within_bounds() -> None:
    price = Price()
    for _ in range(1000):
        price.step(1.0)
    assert price.nats_per_s == K_MAX_PRICE
    for _ in range(1000):
        price.uncovered()
    assert price.nats_per_s == K_MIN_PRICE
    price.step(0.4)
    assert price.nats_per_s == K_MIN_PRICE


candidates = st.lists(
    st.builds(candidate, st.integers(1, 20), st.floats(0, 2), st.floats(0, 0.5)),
    max_size=8,
    unique_by=lambda c: c.device,
)


@given(candidates, st.floats(0, 0.5))
def test_what_is_chosen_is_covered_and_is_the_longest_waits(
    offered: list[Candidate], nats: float
) -> None:
    budget = rich(nats)
    chosen = choose(offered, budget, Price())
    assert budget.covers(together(chosen))
    left = [c.wait_s for c in offered if c not in chosen]
    assert not chosen or min(c.wait_s for c in chosen) >= max(left, default=0.0)

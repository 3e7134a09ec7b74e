"""Tokens a second, and the gaps between them."""

from __future__ import annotations

import pytest

from halo_edge.serve.dashboard.rates import SECONDS, TOKENS, Rates, Second


class Clock:
    def __init__(self) -> None:
        self.now = 100.5

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_tokens_and_gaps_of_each_second(clock: Clock) -> None:
    rates = Rates(clock)
    rates.token(3.0, first=True)
    for at, gap_s in ((100.6, 0.1), (100.9, 0.3), (102.1, 0.2)):
        clock.now = at
        rates.token(gap_s, first=False)
    clock.now = 103.2
    assert rates.second == 103
    found = rates.since(0)
    assert found[0] == Second(100, 3, 200.0, pytest.approx(298.0))
    assert found[1:] == (Second(101, 0, None, None), Second(102, 1, 200.0, 200.0))


def test_the_second_under_way_is_left_out_and_so_is_what_is_known(clock: Clock) -> None:
    rates = Rates(clock)
    rates.token(0.1, first=False)
    assert rates.since(0) == ()
    clock.now = 104.0
    assert [each.second for each in rates.since(102)] == [102, 103]


def test_what_is_kept_has_a_bound(clock: Clock) -> None:
    rates = Rates(clock)
    for _ in range(TOKENS + 5):
        rates.token(0.001, first=False)
    clock.now += 1
    (newest,) = rates.since(0)
    assert newest.tokens == TOKENS
    clock.now += 10 * SECONDS
    assert len(rates.since(0)) == SECONDS
    assert not any(each.tokens for each in rates.since(0))

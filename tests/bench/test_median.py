"""Medians and their intervals, against the binomial distribution and by brute force."""

from __future__ import annotations

import random
from statistics import median

import pytest
from hypothesis import given
from hypothesis import strategies as st

from halo_edge.bench.median import Interval, Reading, coverage, median_of

VALUES = st.lists(st.floats(0, 1e6), min_size=1, max_size=30)


def readings(*values: float) -> list[Reading]:
    return [Reading(value) for value in values]


@given(VALUES)
def test_the_median_lies_in_its_interval(values: list[float]) -> None:
    found = median_of(readings(*values))
    assert found.value == median(values)
    assert found.at_least is None
    assert found.repetitions == len(values)
    if len(values) == 1:
        assert found.interval is None
    else:
        assert found.interval is not None and found.interval.high is not None
        assert found.interval.low <= found.value <= found.interval.high


def test_known_intervals() -> None:
    """Of 6, the extremes hold the median with 1 - 2/64; of 5, only with 1 - 2/32."""
    assert coverage(6, 1) == pytest.approx(0.96875)
    assert median_of(readings(6, 1, 5, 2, 4, 3)).interval == Interval(1, 6, 0.96875)
    assert median_of(readings(5, 1, 4, 2, 3)).interval == Interval(1, 5, 0.9375)
    ten = median_of(readings(*range(10))).interval
    assert ten is not None and (ten.low, ten.high) == (1, 8)
    assert ten.confidence == pytest.approx(0.978516, abs=1e-6)


def test_the_confidence_is_what_it_says() -> None:
    """Drawn 4000 times from a skewed distribution whose median is known."""
    rng, n, held = random.Random(1), 9, 0
    for _ in range(4000):
        found = median_of(readings(*(rng.expovariate(0.6931471805599453) for _ in range(n))))
        assert found.interval is not None and found.interval.high is not None
        held += found.interval.low <= 1 <= found.interval.high
    assert found.interval is not None
    assert held / 4000 == pytest.approx(found.interval.confidence, abs=0.01)


def test_what_was_cut_short_leaves_the_median_open_only_where_it_matters() -> None:
    some = [*readings(1, 2, 3), Reading(9, cut_short=True), Reading(9, cut_short=True)]
    found = median_of(some)
    assert (found.value, found.at_least) == (3, None)
    assert found.interval == Interval(1, None, 0.9375)
    most = [*readings(1), Reading(7, cut_short=True), Reading(9, cut_short=True)]
    assert median_of(most).value is None
    assert median_of(most).at_least == 7


def test_nothing_has_no_median() -> None:
    with pytest.raises(ValueError, match="nothing"):
        median_of([])

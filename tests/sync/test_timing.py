from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from halo_edge.sync.timing import K_FASTEST_OF, K_MAX_SAMPLE_S, Recovery, TimeoutEstimator


def test_the_formulas_of_rfc_6298() -> None:
    estimator = TimeoutEstimator(initial_s=0.05, floor_s=0.001)
    assert estimator.timeout_s == 0.05
    estimator.sample(0.010)  # SRTT = R, RTTVAR = R/2: SRTT + 4 RTTVAR = 3 R
    assert estimator.timeout_s == pytest.approx(0.030)
    estimator.sample(0.018)  # RTTVAR = 3/4 * 5 + 1/4 * 8 ms, SRTT = 7/8 * 10 + 1/8 * 18 ms
    assert estimator.timeout_s == pytest.approx(0.011 + 4 * 0.00575)


@given(st.lists(st.floats(0, 1e6), max_size=50), st.floats(0.0001, 0.1))
def test_a_timeout_has_a_floor_and_a_ceiling(samples: list[float], floor_s: float) -> None:
    estimator = TimeoutEstimator(0.05, floor_s)
    for sample in samples:
        estimator.sample(sample)
        assert floor_s <= estimator.timeout_s <= 5 * K_MAX_SAMPLE_S


def test_a_steady_time_is_waited_for_little_longer_than_it_takes() -> None:
    estimator = TimeoutEstimator(0.05, 0.001)
    for _ in range(50):
        estimator.sample(0.007)
    assert 0.007 <= estimator.timeout_s < 0.0071


def test_a_steady_time_is_given_some_room() -> None:
    """G of RFC 6298, above the mean rather than as a floor."""
    estimator = TimeoutEstimator(0.05, 0.001, min_variation_s=0.0003)
    for _ in range(100):
        estimator.sample(0.007)
    assert estimator.timeout_s == pytest.approx(0.0073)


def test_waits_double_and_stop_doubling() -> None:
    recovery = Recovery(max_backoff_s=0.1)
    assert [recovery.backed_off_s(0.01, n) for n in range(5)] == [0.01, 0.02, 0.04, 0.04, 0.04]
    assert recovery.backed_off_s(0.06, 1) == 0.1
    assert recovery.backed_off_s(0.3, 3) == 0.3  # never shorter than the link's own time


def test_over_tcp_no_timer_ever_runs_out_and_nothing_is_throttled() -> None:
    recovery = Recovery(reliable=True)
    assert TimeoutEstimator(0.05, recovery.floor_s()).timeout_s == math.inf
    assert recovery.backed_off_s(math.inf, 2) == math.inf
    assert recovery.window(16) > 65535
    assert Recovery().window(16) == 16


def test_the_fastest_of_the_last() -> None:
    estimator = TimeoutEstimator(0.05, 0.001)
    assert estimator.fastest_s is None
    estimator.sample(0.002)
    for _ in range(2 * K_FASTEST_OF - 2):
        estimator.sample(0.005)
    assert estimator.fastest_s == 0.002
    for _ in range(2):
        estimator.sample(0.005)
    assert estimator.fastest_s == 0.005

from __future__ import annotations

import math

import pytest

from halo_edge.plan.estimate import BELIEVED, Estimate


def test_few_samples_are_not_believed_and_many_are() -> None:
    estimate = Estimate(100.0)
    estimate.sample(200.0, 1)
    assert 100 < estimate.value < 102
    estimate.sample(200.0, BELIEVED)
    assert 140 < estimate.value < 160
    for _ in range(10):
        estimate.sample(200.0, BELIEVED)
    assert estimate.value == pytest.approx(200.0, rel=0.01)
    assert estimate.samples == 11 * BELIEVED + 1


@pytest.mark.parametrize("mean", [0.0, -1.0, math.inf, math.nan])
def test_what_is_no_sample(mean: float) -> None:
    estimate = Estimate(100.0)
    estimate.sample(mean, 10)
    estimate.sample(5.0, 0)
    assert (estimate.value, estimate.samples) == (100.0, 0)

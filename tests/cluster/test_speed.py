from __future__ import annotations

import pytest

from halo_edge.cluster.speed import MIN_ROUNDS, DecodeSpeed


def test_a_mean_of_late_rounds() -> None:
    speed = DecodeSpeed(1000)
    for _ in range(MIN_ROUNDS - 1):
        speed.sample(0.001)
    assert speed.neurons_per_s == 0
    speed.sample(0.001)
    assert speed.neurons_per_s == pytest.approx(1e6)
    for _ in range(300):
        speed.sample(0.004)
    assert speed.neurons_per_s == pytest.approx(0.25e6, rel=0.02)


def test_stalls_count() -> None:
    """A device that is throttled computes most rounds at full speed, and some not at all."""
    speed = DecodeSpeed(1000)
    for round_ in range(1000):
        speed.sample(0.001 if round_ % 10 else 0.031)
    assert speed.neurons_per_s == pytest.approx(0.25e6, rel=0.2)


def test_no_neurons_have_no_speed() -> None:
    speed = DecodeSpeed(0)
    for _ in range(100):
        speed.sample(1e-6)
    assert speed.neurons_per_s == 0

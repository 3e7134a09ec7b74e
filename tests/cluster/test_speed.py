"""Means of what rounds take."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from halo_edge.cluster import speed
from halo_edge.cluster.speed import DecodeClock, RootClock


def test_a_mean_of_late_rounds() -> None:
    clock = DecodeClock(1000)
    for _ in range(64):
        clock.sample(0.001, 0.002, 0.003)
    times = clock.times
    assert (times.neurons, times.rounds) == (1000, 64)
    assert (times.cpu_s, times.wall_s, times.round_cpu_s) == pytest.approx((0.001, 0.002, 0.003))
    for _ in range(300):
        clock.sample(0.004, 0.004, 0.005)
    assert clock.times.cpu_s == pytest.approx(0.004, rel=0.02)


def test_stalls_count() -> None:
    """A device that is throttled computes most rounds at full speed, and some not at all."""
    clock = DecodeClock(1000)
    for round_ in range(1000):
        clock.sample(0.001, 0.001 if round_ % 10 else 0.031, 0.001)
    assert clock.times.wall_s == pytest.approx(0.004, rel=0.2)
    assert clock.times.cpu_s == pytest.approx(0.001)


def test_from_the_end_of_one_round_to_that_of_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    """A prompt in between says nothing of them."""
    readings = iter([0.0, 0.001, 0.010, 0.012, 0.5, 0.501, 0.6, 0.602])
    monkeypatch.setattr(speed, "time", _Time(readings))
    clock = DecodeClock(10)
    for skip in (False, False, True, False):
        clock.begin()
        if skip:
            clock.skip()
            next(readings)
        else:
            clock.end()
    assert clock.times.rounds == 1
    assert clock.times.cpu_s == pytest.approx(0.002)
    assert clock.times.round_cpu_s == pytest.approx(0.011)


class _Time:
    """A clock of CPU time that goes as it is told."""

    def __init__(self, readings: Iterator[float]) -> None:
        self.thread_time = readings.__next__
        self.monotonic = lambda: 0.0


def test_between_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two layers, 1 ms of attention each; 5 ms from one token to the next. A prompt says nothing of
    them."""
    readings = iter([0.0, 0.1, 0.103, 0.104, 0.106, 0.111, 0.113, 0.114])
    monkeypatch.setattr(speed, "time", _Time(readings))
    clock = RootClock()
    clock.begin(0)
    clock.end(128)
    clock.begin(0)  # 0.100
    clock.end(1)
    clock.begin(1)  # 0.104
    clock.end(1)
    clock.begin(0)  # 0.111
    clock.end(1)
    clock.begin(1)  # 0.114
    clock.end(5)
    assert next(readings, None) is None
    assert clock.rounds == 2
    assert clock.layer_s == pytest.approx(0.001)
    assert clock.step_s == pytest.approx(0.005)
    assert 0.002 <= clock.round_s <= 0.003

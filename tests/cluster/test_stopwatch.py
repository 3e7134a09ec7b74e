"""A stopwatch with a clock that goes on by so much with every look at it."""

from __future__ import annotations

import pytest

from halo_edge.cluster.stopwatch import Stopwatch, typical


class Clock:
    def __init__(self, reading_s: float) -> None:
        self.now_s = 100.0
        self._reading_s = reading_s

    def __call__(self) -> float:
        self.now_s += self._reading_s
        return self.now_s


def test_readings_do_not_count() -> None:
    clock = Clock(reading_s=0.25)
    watch = Stopwatch(clock)
    watch.start()
    clock.now_s += 3
    watch.lap("three")
    watch.lap("nothing")
    clock.now_s += 8
    watch.lap("four", 2)
    watch.lap("none of them", 0)
    assert watch.typical_s("three") == pytest.approx(3)
    assert watch.typical_s("nothing") == 0
    assert watch.typical_s("four") == pytest.approx(4)
    with pytest.raises(KeyError):
        watch.typical_s("none of them")


def test_the_slowest_do_not_count() -> None:
    assert typical([1.0] * 9 + [1000.0]) == 1
    assert typical([5.0]) == 5


def test_quick_ones() -> None:
    clock = Clock(reading_s=0)
    watch = Stopwatch(clock)
    for seconds in (9, 2, 1, 9, 9, 9, 9, 9, 9, 9):
        watch.start()
        clock.now_s += seconds
        watch.lap("mostly slow")
    assert watch.quick_s("mostly slow") == 2

"""The end of a first step is waited for, within bounds. In a plan's place: test_replanner.py."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from halo_edge.cluster.first_step import FIRST_STEP_S, IDLE_S, FirstStep


class Clock:
    """Stands for the module's `time`, and for the event that interrupts: waiting is what takes
    time."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def monotonic(self) -> float:
        return self.now_s

    def wait(self, timeout_s: float) -> bool:
        self.now_s += timeout_s
        return False


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr("halo_edge.cluster.first_step.time", made)
    monkeypatch.setattr("threading.Event", lambda: made)
    return made


def test_until_the_second_step_begins(clock: Clock) -> None:
    steps: Iterator[int] = iter([0, 0, 1, 1, 2])
    FirstStep().wait(lambda: next(steps))
    assert next(steps, None) is None


@pytest.mark.parametrize(("steps", "limit_s"), [(0, IDLE_S), (1, FIRST_STEP_S)])
def test_only_for_so_long(clock: Clock, steps: int, limit_s: float) -> None:
    FirstStep().wait(lambda: steps)
    assert clock.now_s == pytest.approx(limit_s, abs=0.1)


def test_not_if_something_else_cannot_wait() -> None:
    first = FirstStep()
    first.interrupt()
    first.wait(lambda: 1)

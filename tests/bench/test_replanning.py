"""What is said of the course of token gaps."""

from __future__ import annotations

import pytest

from halo_edge.bench.decoding import Decoding
from halo_edge.bench.lab_cluster import LabSample
from halo_edge.bench.replanning import KILLS, Case, Trouble, _Course, _rows, _table
from halo_edge.lab.spec import Action

GAPS = (*[100.0] * 50, 900.0, *[400.0] * 20, *[150.0] * 60)
SAMPLE = LabSample(Decoding(GAPS), events_s=(5.0,))


def test_course() -> None:
    """Slow from the 51st token on, which is at 5 s, for 9 s."""
    course = _Course.of(SAMPLE)
    assert course.before_ms == 100
    assert course.after_ms == 150
    assert course.longest_ms == 900
    assert course.settled_s == pytest.approx(0.9 + 8.0 + 2 * 0.15, abs=0.01)


def test_nothing_happened_in_time() -> None:
    course = _Course.of(LabSample(Decoding((100.0,) * 20)))
    assert course.settled_s == 0
    assert course.before_ms == 0


def test_rows() -> None:
    (row,) = _rows({Case(Trouble.SLOW): [SAMPLE, SAMPLE]})
    assert (row.longest_ms, row.after_ms, row.repetitions) == (900, 150, 2)
    assert "a worker slows to a quarter" in _table([row])


def test_events() -> None:
    kills = [event for event in Trouble.KILLED.events if event.action is Action.KILL]
    assert len(kills) == KILLS
    times = [event.at_s for event in Trouble.KILLED.events]
    assert times == sorted(times)
    assert len({event.device for event in kills}) == 3

"""What is said of the course of token gaps."""

from __future__ import annotations

from collections import Counter

import pytest

from halo_edge.bench.decoding import Decoding
from halo_edge.bench.lab_cluster import LabSample
from halo_edge.bench.replanning import (
    REPLANNING,
    Case,
    Phase,
    Sample,
    Trouble,
    gaps_of,
    settled_s,
)
from halo_edge.bench.texts import Texts

# Slow from the 51st token on, which is at 5 s; a new plan at the 21st after it, at 14.3 s.
GAPS = (*[100.0] * 50, 900.0, *[400.0] * 20, *[150.0] * 60)
SAMPLE = LabSample(Decoding(GAPS, switched=(71,)), events_s=(5.0,))


def test_gaps_by_what_happened_around_them() -> None:
    gaps = gaps_of(SAMPLE)
    assert [gap.ms for gap in gaps] == list(GAPS)
    phases = [gap.phase for gap in gaps]
    assert phases[:49] == [Phase.BEFORE] * 49
    assert gaps[50].phase is Phase.AT_ONCE and gaps[50].at_s == pytest.approx(0.9)
    assert gaps[51].phase is Phase.AT_ONCE  # it began within the second
    assert gaps[52].phase is Phase.LATER
    planned = [gap for gap in gaps if gap.phase is Phase.NEW_PLAN]
    assert planned == [gap for gap in gaps if 8.05 <= gap.at_s <= 10.2]
    assert phases[-1] is Phase.LATER


def test_settled() -> None:
    assert settled_s(gaps_of(SAMPLE)) == pytest.approx(0.9 + 8.0 + 3 * 0.15, abs=0.01)


def test_nothing_happened_in_time() -> None:
    gaps = gaps_of(LabSample(Decoding((100.0,) * 20)))
    assert {gap.phase for gap in gaps} == {Phase.BEFORE}
    assert settled_s(gaps[:4]) == 0


def test_rows() -> None:
    peace = gaps_of(LabSample(Decoding((100.0,) * 20)))
    killed = Sample((peace, gaps_of(SAMPLE)), Texts(2, 1, 1, 60, (0.03,)))
    taken = {
        Case(Trouble.SLOW): [Sample((gaps_of(SAMPLE),), Texts())] * 2,
        Case(Trouble.KILLED): [killed],
    }
    slow, kill = REPLANNING.rows(taken)
    assert slow.repetitions == 2
    assert slow.settled_s == pytest.approx(9.35, abs=0.01)
    assert kill.settled_s is None
    assert kill.texts.identical == 1
    found = {gaps.phase: gaps for gaps in slow.gaps}
    counted = Counter(gap.phase for gap in gaps_of(SAMPLE))
    assert {phase: gaps.count for phase, gaps in found.items()} == {
        phase: 2 * count for phase, count in counted.items()
    }
    assert found[Phase.AT_ONCE].longest_ms == 900
    assert found[Phase.BEFORE].p99_ms == 100
    # Of the kills' own course nothing is shown but what comes after it, and just before.
    assert len(kill.course) == len(GAPS)
    table = REPLANNING.table([slow, kill])
    assert "The worker with the largest share slows to a quarter: near the last gaps" in table
    assert "1 of 2 texts identical" in table

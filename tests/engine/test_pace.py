"""Steps as long as others can bear, from what steps took."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from halo_edge.engine.pace import MAX_ADDED_S, ROW_COUNTS, Pace


def test_expected_from_fewer_and_from_more() -> None:
    pace = Pace()
    assert pace.expected_s(5) == 0
    pace.took(4, 0.1)
    assert pace.expected_s(8) == pytest.approx(0.2)
    assert pace.expected_s(2) == pytest.approx(0.1)
    pace.took(16, 0.16)
    assert pace.expected_s(8) == pytest.approx(0.16)
    assert pace.expected_s(32) == pytest.approx(0.32)


def test_a_step_that_took_long_by_accident_is_not_held_against_its_size() -> None:
    """Graphs were built, the disk was busy: it is tried again as soon as others say so."""
    pace = Pace()
    pace.took(1, 0.02)
    pace.took(32, 5.0)
    seen = []
    while not seen or seen[-1] < 48:
        seen.append(pace.rows(1, 48))
        pace.took(seen[-1], 0.02)
        assert len(seen) < 40
    assert 32 in seen


def test_a_change_is_noticed() -> None:
    pace = Pace()
    for _ in range(20):
        pace.took(1, 0.02)
    for _ in range(20):
        pace.took(1, 0.2)
    assert pace.expected_s(1) == pytest.approx(0.2, rel=0.01)


def test_slow_as_it_may_be_prompts_get_on() -> None:
    pace = Pace()
    pace.took(3, 5.0)
    assert pace.rows(3, 90) == 4
    assert pace.rows(127, 128) == 128
    assert pace.rows(128, 128) == 128
    assert pace.rows(8, 9) == 9  # no number to choose


@given(
    fixed_s=st.floats(0, 0.5),
    row_s=st.floats(0, 0.2),
    decoding=st.integers(1, 16),
    most=st.integers(20, 128),
)
def test_within_the_bound_and_near_it(
    fixed_s: float, row_s: float, decoding: int, most: int
) -> None:
    """Where a step takes a fixed time and one for each row, it finds how many rows it may have."""
    pace = Pace()
    pace.took(decoding, fixed_s + decoding * row_s)
    for _ in range(60):
        rows = pace.rows(decoding, most)
        assert rows in ROW_COUNTS
        assert decoding < rows <= most
        pace.took(rows, fixed_s + rows * row_s)
    allowed = [n for n in ROW_COUNTS if decoding < n <= most]
    within = [n for n in allowed if (n - decoding) * row_s <= MAX_ADDED_S * 0.99]
    assert rows >= max(within, default=allowed[0])
    surely = [n for n in allowed if (n - decoding) * row_s <= MAX_ADDED_S * 1.01]
    assert rows <= max(surely, default=allowed[0])

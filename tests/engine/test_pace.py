"""Steps as long as others can bear, from what steps took."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from halo_edge.engine.pace import MAX_ADDED_S, ROW_COUNTS, Pace


def test_the_first_step_with_a_prompt_is_a_cautious_one() -> None:
    """No row adds more than its part of a step: 5 take no longer than 5 times what one takes."""
    pace = Pace(0.1)
    pace.took(1, 0, 0.025)
    assert pace.rows(1, 128) == 5
    pace = Pace(0.1)
    pace.took(0, 100, 2.0)  # a prompt while nobody is being answered
    pace.took(1, 0, 0.15)
    assert pace.rows(1, 128) == 6


def test_a_step_that_took_long_by_accident_is_not_held_against_prompts_for_long() -> None:
    """Graphs were built, the disk was busy."""
    pace = Pace(0.1)
    pace.took(1, 0, 0.02)
    pace.took(1, 31, 5.0)
    assert pace.rows(1, 128) == 2
    for _ in range(40):
        rows = pace.rows(1, 64)
        pace.took(1, rows - 1, 0.02 + 0.001 * (rows - 1))
    assert rows == 64


def test_what_took_no_time_by_chance_does_not_make_a_step_of_many_rows() -> None:
    pace = Pace(0.1)
    pace.took(1, 0, 0.05)
    pace.took(1, 1, 0.04)
    assert pace.rows(1, 128) == 3
    pace.took(1, 2, 0.04)
    assert pace.rows(1, 128) == 4


def test_nor_does_it_after_many_steps_of_few() -> None:
    pace = Pace(0.1)
    for _ in range(20):
        pace.took(8, 0, 0.55)
        pace.took(8, 1, 0.6)
    for _ in range(5):
        pace.took(8, 1, 0.45)
    assert pace.rows(8, 128) == 10


def test_a_change_is_noticed() -> None:
    pace = Pace(0.1)
    for row_s in (0.001, 0.02):
        for _ in range(40):
            rows = pace.rows(2, 128)
            pace.took(2, 0, 0.03)
            pace.took(2, rows - 2, 0.03 + (rows - 2) * row_s)
    assert rows == 7


def test_slow_as_it_may_be_prompts_get_on() -> None:
    pace = Pace()
    pace.took(3, 0, 5.0)
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
    pace.took(decoding, 0, fixed_s + decoding * row_s)
    for _ in range(60):
        rows = pace.rows(decoding, most)
        assert rows in ROW_COUNTS
        assert decoding < rows <= most
        pace.took(decoding, rows - decoding, fixed_s + rows * row_s)
    allowed = [n for n in ROW_COUNTS if decoding < n <= most]
    within = [n for n in allowed if (n - decoding) * row_s <= MAX_ADDED_S * 0.99]
    assert rows >= max(within, default=allowed[0])
    surely = [n for n in allowed if (n - decoding) * row_s <= MAX_ADDED_S * 1.01]
    assert rows <= max(surely, default=allowed[0])

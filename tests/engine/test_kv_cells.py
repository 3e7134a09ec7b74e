"""Cells and masks, against the plain rule: a token sees its own sequence up to its own position."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from halo_edge.engine.kv_cells import KvCells, SequenceId
from halo_edge.errors import HaloError

A, B, C = SequenceId(1), SequenceId(2), SequenceId(3)


def seen(
    cells: KvCells, sequence: SequenceId, positions: range, looked_at: range
) -> list[set[int]]:
    """For each of `positions`, the cells it may look at."""
    mask: NDArray[np.float16] = np.full((len(positions), len(looked_at)), 7, np.float16)
    cells.fill_mask(mask, looked_at.start, sequence, positions)
    assert set(np.unique(mask)) <= {np.float16(0), np.float16(-np.inf)}
    return [set((np.flatnonzero(row == 0) + looked_at.start).tolist()) for row in mask]


ALL = range(16)


def test_each_has_its_cells_in_a_row_and_room_to_grow() -> None:
    cells = KvCells(16)
    assert cells.n_free == 16
    assert cells.allocate(A, range(3)) == [0, 1, 2]
    assert cells.allocate(B, range(2)) == [9, 10]  # the middle of what is free
    assert cells.allocate(A, range(3, 5)) == [3, 4]
    assert cells.allocate(C, range(1)) == [13]
    assert (cells.span(A), cells.span(B), cells.n_free) == (range(5), range(9, 11), 8)
    cells.release(A)
    assert cells.span(A) == range(0)
    assert cells.allocate(SequenceId(4), range(9)) == list(range(9))


def test_where_there_is_no_room_the_nearest_is_taken() -> None:
    cells = KvCells(16)
    cells.allocate(A, range(7))
    cells.allocate(B, range(2))
    assert cells.span(B) == range(11, 13)
    assert cells.allocate(A, range(7, 12)) == [7, 8, 9, 10, 13]
    assert cells.span(A) == range(14)
    cells.release(B)
    assert cells.allocate(A, range(12, 15)) == [14, 15, 11]
    assert seen(cells, A, range(14, 15), ALL) == [{*range(12), 13, 14, 15}]


def test_a_new_one_that_needs_all_there_is() -> None:
    cells = KvCells(16)
    cells.allocate(A, range(3))
    cells.allocate(B, range(2))
    assert sorted(cells.allocate(C, range(11))) == [*range(3, 9), *range(11, 16)]
    assert cells.n_free == 0


def test_masks_of_interleaved_sequences() -> None:
    cells = KvCells(16)
    cells.allocate(A, range(2))
    cells.allocate(B, range(7))
    assert cells.span(B) == range(9, 16)
    cells.allocate(A, range(2, 9))
    cells.release(B, keep=4)
    assert cells.allocate(A, range(9, 11)) == [13, 14]
    assert seen(cells, A, range(8, 11), ALL) == [
        set(range(9)), {*range(9), 13}, {*range(9), 13, 14}
    ]  # fmt: skip
    assert seen(cells, A, range(10, 11), range(4, 14)) == [{4, 5, 6, 7, 8, 13}]
    assert seen(cells, B, range(1, 2), ALL) == [{9, 10}]
    assert seen(cells, C, range(0, 3), ALL) == [set(), set(), set()]


def test_release_keeps_the_first_positions() -> None:
    cells = KvCells(16)
    cells.allocate(A, range(4))
    cells.allocate(B, range(1))
    cells.release(A, keep=2)
    assert cells.span(A) == range(2)
    assert seen(cells, A, range(9, 10), ALL) == [{0, 1}]
    assert cells.allocate(A, range(2, 3)) == [2]
    assert seen(cells, A, range(2, 3), ALL) == [{0, 1, 2}]
    assert seen(cells, B, range(0, 1), ALL) == [{10}]


def test_hand_over() -> None:
    cells = KvCells(16)
    cells.allocate(A, range(3))
    cells.hand_over(A, B)
    assert (cells.span(A), cells.span(B)) == (range(0), range(3))
    assert seen(cells, A, range(2, 3), ALL) == [set()]
    assert seen(cells, B, range(2, 3), ALL) == [{0, 1, 2}]
    cells.release(A)
    assert cells.n_free == 13


def test_copy() -> None:
    cells = KvCells(16)
    cells.allocate(A, range(5))
    cells.allocate(B, range(1))
    assert cells.copy(A, C, 4) == ([0, 1, 2, 3], [6, 7, 8, 9])
    assert seen(cells, C, range(3, 4), ALL) == [{6, 7, 8, 9}]
    assert seen(cells, A, range(4, 5), ALL) == [{0, 1, 2, 3, 4}]
    cells.allocate(B, range(1, 4))
    with pytest.raises(HaloError, match="full"):
        cells.copy(A, B, 5)


def test_full() -> None:
    cells = KvCells(4)
    cells.allocate(A, range(3))
    with pytest.raises(HaloError, match="the KV cache is full \\(4 cells\\); use a larger --ctx"):
        cells.allocate(B, range(2))
    assert cells.n_free == 1  # nothing was taken
    assert cells.allocate(B, range(1)) == [3]


@given(st.data())
def test_any_history(data: st.DataObject) -> None:
    """Against a dictionary of what each sequence holds."""
    cells, size = KvCells(24), 24
    held: dict[SequenceId, dict[int, int]] = {A: {}, B: {}, C: {}}  # position -> cell
    for _ in range(data.draw(st.integers(1, 25))):
        sequence = data.draw(st.sampled_from([A, B, C]))
        own = held[sequence]
        free = size - sum(map(len, held.values()))
        action = data.draw(st.sampled_from(["allocate", "release", "hand over"]))
        if action == "allocate" and free:
            positions = range(len(own), len(own) + data.draw(st.integers(1, free)))
            own.update(zip(positions, cells.allocate(sequence, positions), strict=True))
        elif action == "release":
            keep = data.draw(st.integers(0, len(own)))
            cells.release(sequence, keep)
            held[sequence] = {p: c for p, c in own.items() if p < keep}
        elif action == "hand over" and not held[C]:
            cells.hand_over(sequence, C)
            held[C], held[sequence] = own, held[C]
        taken = [c for positions in held.values() for c in positions.values()]
        assert len(set(taken)) == len(taken)
        assert cells.n_free == size - len(taken)
        for one, positions in held.items():
            rows, own_cells = range(len(positions)), sorted(positions.values())
            assert cells.span(one) == range(own_cells[0], own_cells[-1] + 1) if own_cells else True
            assert seen(cells, one, rows, range(size)) == [
                {c for p, c in positions.items() if p <= row} for row in rows
            ]

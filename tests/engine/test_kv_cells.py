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


def seen(cells: KvCells, sequence: SequenceId, positions: range, kv: int) -> list[set[int]]:
    """For each of `positions`, the cells it may look at."""
    mask: NDArray[np.float16] = np.full((len(positions), kv), 7, np.float16)
    cells.fill_mask(mask, sequence, positions)
    assert set(np.unique(mask)) <= {np.float16(0), np.float16(-np.inf)}
    return [set(np.flatnonzero(row == 0).tolist()) for row in mask]


def test_lowest_cells_first_and_reused() -> None:
    cells = KvCells(8)
    assert (cells.used, cells.n_free) == (0, 8)
    assert cells.allocate(A, range(3)) == [0, 1, 2]
    assert cells.allocate(B, range(2)) == [3, 4]
    cells.release(A)
    assert (cells.used, cells.n_free) == (5, 6)
    assert cells.allocate(C, range(4)) == [0, 1, 2, 5]
    assert cells.used == 6
    cells.release(C)
    cells.release(B)
    assert (cells.used, cells.n_free) == (0, 8)


def test_masks_of_interleaved_sequences() -> None:
    cells = KvCells(16)
    assert cells.allocate(A, range(2)) == [0, 1]
    assert cells.allocate(B, range(1)) == [2]
    assert cells.allocate(A, range(2, 4)) == [3, 4]
    assert seen(cells, A, range(2, 4), 16) == [{0, 1, 3}, {0, 1, 3, 4}]
    assert seen(cells, A, range(3, 4), 8) == [{0, 1, 3, 4}]
    assert seen(cells, B, range(0, 1), 5) == [{2}]
    assert seen(cells, C, range(0, 3), 5) == [set(), set(), set()]


def test_release_keeps_the_first_positions() -> None:
    cells = KvCells(16)
    cells.allocate(A, range(4))
    cells.allocate(B, range(1))
    cells.release(A, keep=2)
    assert seen(cells, A, range(9, 10), 16) == [{0, 1}]
    assert cells.allocate(A, range(2, 3)) == [2]
    assert seen(cells, A, range(2, 3), 16) == [{0, 1, 2}]
    assert seen(cells, B, range(0, 1), 16) == [{4}]


def test_hand_over() -> None:
    cells = KvCells(16)
    cells.allocate(A, range(3))
    cells.hand_over(A, B)
    assert seen(cells, A, range(2, 3), 16) == [set()]
    assert seen(cells, B, range(2, 3), 16) == [{0, 1, 2}]
    cells.release(A)
    assert cells.n_free == 13


def test_copy() -> None:
    cells = KvCells(16)
    cells.allocate(A, range(2))
    cells.allocate(B, range(1))
    cells.allocate(A, range(2, 5))
    assert cells.copy(A, C, 4) == ([0, 1, 3, 4], [6, 7, 8, 9])
    assert seen(cells, C, range(3, 4), 16) == [{6, 7, 8, 9}]
    assert seen(cells, A, range(4, 5), 16) == [{0, 1, 3, 4, 5}]
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
        assert cells.used == max(taken, default=-1) + 1
        for one, positions in held.items():
            rows = range(len(positions))
            assert seen(cells, one, rows, size) == [
                {c for p, c in positions.items() if p <= row} for row in rows
            ]

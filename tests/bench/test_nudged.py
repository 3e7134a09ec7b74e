"""The control moves one row of one layer in each window, and hardly."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from halo_edge.bench.nudged import POSITION, RELATIVE, NudgedFfn

LAYERS, HIDDEN, CONTEXT = 3, 16, 32


class Ones:
    """An FFN that always gives 1."""

    def __init__(self, out: NDArray[np.float32]) -> None:
        self._out = out

    def ffn(self, layer: int, tokens: int) -> None:
        self._out[:tokens] = 1


@pytest.mark.parametrize("step_tokens", [1, 5, 32])
def test_one_row_of_each_window(step_tokens: int) -> None:
    out = np.zeros((32, HIDDEN), np.float32)
    gather = NudgedFfn(Ones(out), out, 1, CONTEXT, step_tokens)
    moved = []
    for window in range(3):
        for start in range(0, CONTEXT, step_tokens):
            tokens = min(step_tokens, CONTEXT - start)
            for layer in range(LAYERS):
                gather.ffn(layer, tokens)
                rows = np.flatnonzero((out[:tokens] != 1).any(axis=1))
                moved += [(window, layer, start + int(row)) for row in rows]
                assert np.abs(out[:tokens] - 1).max(initial=0) < 5 * RELATIVE
    assert moved == [(window, 1, POSITION) for window in range(3)]

"""Group energies by products of columns are those of the partials."""

from __future__ import annotations

import numpy as np
import pytest

from halo_edge.calibrate.grouped import Grouped


@pytest.mark.parametrize("size", [32, 48])  # 48: a last group of 32
def test_energies_are_those_of_the_partials(size: int) -> None:
    rng = np.random.default_rng(0)
    down = rng.standard_normal((24, 128), np.float32)
    order = rng.permutation(128).astype(np.int32)
    activations = rng.standard_normal((5, 128), np.float32)
    grouped = Grouped(order, down, size)
    expected = [
        ((activations[:, start : start + size] @ down[:, order[start : start + size]].T) ** 2).sum(
            axis=1
        )
        for start in range(0, 128, size)
    ]
    assert grouped.n_groups == len(expected)
    np.testing.assert_allclose(grouped.energies(activations), np.stack(expected, axis=1), rtol=1e-4)


def test_no_tokens() -> None:
    grouped = Grouped(np.arange(64, dtype=np.int32), np.ones((8, 64), np.float32), 32)
    assert grouped.energies(np.zeros((0, 64), np.float32)).shape == (0, 2)

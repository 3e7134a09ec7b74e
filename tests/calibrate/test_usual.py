"""Which tokens are as tokens usually are."""

from __future__ import annotations

import numpy as np

from halo_edge.calibrate.usual import OUTLIER, energies, is_usual


def test_energies_are_squared_lengths() -> None:
    assert energies(np.array([[3, 4], [0, 1]], np.float32)).tolist() == [25, 1]


def test_far_beyond_the_typical_is_not_usual() -> None:
    energy = np.array([0, 1, OUTLIER, 1.1 * OUTLIER, np.inf, np.nan], np.float32)
    assert is_usual(energy, 1.0).tolist() == [True, True, True, False, False, False]

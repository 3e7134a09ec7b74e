"""What is measured on text that nothing was learned from."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from halo_edge.calibrate.first_pass import first_pass
from halo_edge.calibrate.held_out import fit, rank_correlations
from halo_edge.calibrate.second_pass import SecondPass
from halo_edge.calibrate.tap import TappedModel


@pytest.mark.parametrize(
    ("b", "expected"),
    [([1, 2, 3, 9], 1), ([9, 3, 2, 1], -1), ([1, 3, 2, 9], 0.8), ([2, 2, 2, 2], None)],
)
def test_rank_correlations(b: list[float], expected: float | None) -> None:
    a = np.array([[10, 20, 30, 40]], np.float32)
    (found,) = rank_correlations(a, np.array([b], np.float32))
    assert -1 <= found <= 1
    if expected is not None:
        assert found == pytest.approx(expected)


def test_a_fill_leaves_more_of_text_that_it_has_not_seen(
    tapped: TappedModel, pieces: Callable[..., list[list[int]]]
) -> None:
    text = pieces(3)
    structure = first_pass(tapped, text, 64, 64, 1, lambda _: None)
    moments = SecondPass(tapped, structure, 64, 512)
    for piece in text:
        moments.add(piece)
    told: list[int] = []
    seen = fit(tapped, text, structure, moments.layers, told.append)
    unseen = fit(tapped, pieces(3, seed=1), structure, moments.layers, told.append)
    assert sum(told) == 6 * 96
    assert seen.left.shape == (3, 8)
    assert ((seen.left >= 0) & (seen.left <= 1)).all()
    assert seen.left.mean() < unseen.left.mean()
    assert seen.spearman.mean() > unseen.spearman.mean()

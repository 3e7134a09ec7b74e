"""The second pass: sums over a stream give what regressions on everything at once would."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from halo_edge.calibrate.first_pass import Structure, first_pass
from halo_edge.calibrate.grouped import Grouped
from halo_edge.calibrate.second_pass import RIDGE, Moments, SecondPass, with_one
from halo_edge.calibrate.tap import Floats, TappedModel
from halo_edge.groups.profile import quantised

Pieces = Callable[..., list[list[int]]]
K, F, H, N = 3, 64, 8, 500


@pytest.fixture(scope="module")
def data() -> tuple[Grouped, Floats, Floats, Floats, Floats]:
    """Groups of 32, and [z, 1], [z, 1] before, activations and outputs of N tokens."""
    rng = np.random.default_rng(0)
    down = rng.standard_normal((H, F), np.float32)
    z = np.ones((N, K + 1), np.float32)
    z[:, :-1] = rng.standard_normal((N, K))
    before = z.copy()
    before[:, :-1] += 0.1 * rng.standard_normal((N, K), np.float32)
    a = z @ rng.standard_normal((K + 1, F), np.float32) + rng.standard_normal((N, F), np.float32)
    return Grouped(np.arange(F, dtype=np.int32), down, 32), z, before, a, a @ down.T


def streamed(data: tuple[Grouped, Floats, Floats, Floats, Floats], step: int) -> Moments:
    grouped, *arrays = data
    moments = Moments(grouped, K)
    for start in range(0, N, step):
        moments.add(*(array[start : start + step] for array in arrays))
    return moments


def ridge(z: Floats, targets: Floats) -> Floats:
    z = z.astype(np.float64)
    return np.linalg.solve(z.T @ z + RIDGE * N * np.eye(K + 1), z.T @ targets).T


@pytest.mark.parametrize("step", [N, 128, 7])
def test_streamed_is_at_once(
    data: tuple[Grouped, Floats, Floats, Floats, Floats], step: int
) -> None:
    grouped, z, before, a, out = data
    found = streamed(data, step)
    groups = grouped.energies(a)
    np.testing.assert_allclose(found.mean, z[:, :-1].mean(axis=0), atol=1e-5)
    np.testing.assert_allclose(found.energy, groups.mean(axis=0), rtol=1e-4)
    np.testing.assert_allclose(found.total, (out**2).sum(axis=1).mean(), rtol=1e-4)
    expected = ridge(z, a)
    np.testing.assert_allclose(found.regression[:, -1], expected[:, -1], atol=1e-3)
    np.testing.assert_allclose(found.regression[:, :-1], expected[:, :-1], atol=0.02)
    assert (found.regression[:, :-1] == quantised(found.regression[:, :-1])).all()
    np.testing.assert_allclose(found.predictor, ridge(before, np.log(groups)), atol=0.01)


def test_going_on_from_a_state_is_not_having_stopped(
    data: tuple[Grouped, Floats, Floats, Floats, Floats],
) -> None:
    grouped, *arrays = data
    first, second = Moments(grouped, K), Moments(grouped, K)
    first.add(*(array[:300] for array in arrays))
    second.restore([part.copy() for part in first.state()])
    for moments in (first, second):
        moments.add(*(array[300:] for array in arrays))
    assert (first.regression == second.regression).all()
    assert (first.predictor == second.predictor).all()
    assert first.total == second.total


def test_no_tokens_give_a_profile_that_is_finite(
    data: tuple[Grouped, Floats, Floats, Floats, Floats],
) -> None:
    moments = Moments(data[0], K)
    assert np.isfinite(moments.regression).all()
    assert np.isfinite(moments.predictor).all()
    assert moments.total > 0


@pytest.fixture
def structure(tapped: TappedModel, pieces: Pieces) -> Structure:
    return first_pass(tapped, pieces(3), 64, 16, 1, lambda _: None)


def test_of_a_model(tapped: TappedModel, pieces: Pieces, structure: Structure) -> None:
    text = pieces(4, 150)
    moments = SecondPass(tapped, structure, 64, 512)
    for piece in text:
        moments.add(piece)
    assert moments.pieces == 4
    collected: list[list[Floats]] = [[], [], []]

    def look(layer: int, _: slice, x: Floats, a: Floats, __: Floats) -> None:
        collected[layer].append(np.concatenate([x, a], axis=1))

    for piece in text:
        tapped.run(piece, look=look)
    for i, layer in enumerate(moments.layers):
        rows = np.concatenate(collected[i])
        x, a = rows[:, :128], rows[:, 128:][:, structure.permutations[i]]
        z = with_one(x, structure.bases[i])
        np.testing.assert_allclose(layer.mean, z[:, :-1].mean(axis=0), atol=1e-4)
        energies = layer.grouped.energies(a).mean(axis=0)
        np.testing.assert_allclose(layer.energy, energies, rtol=1e-3)
        # The fill of a model of random weights repairs little, but something.
        left = layer.grouped.energies(a - z @ layer.regression.T).mean(axis=0)
        assert left.sum() < energies.sum()


def test_outliers_are_counted_by_layer_and_position(
    tapped: TappedModel, pieces: Pieces, structure: Structure
) -> None:
    typical = structure.typical.copy()
    typical[1] = 1e-9  # everything is out of the ordinary there
    strange = Structure(structure.permutations, structure.bases, typical)
    moments = SecondPass(tapped, strange, 64, 512)
    for piece in pieces(2):
        moments.add(piece)
    assert (moments.outliers[1, :96] == 2).all()
    assert not moments.outliers[1, 96:].any()
    assert not moments.outliers[[0, 2]].any()
    assert (moments.excess[1, :96] > 100).all()
    assert np.isfinite(moments.layers[1].regression).all()


def test_a_state_is_that_of_all_layers(
    tapped: TappedModel, pieces: Pieces, structure: Structure
) -> None:
    text = pieces(3)
    straight, stopped = (SecondPass(tapped, structure, 64, 512) for _ in range(2))
    for piece in text:
        straight.add(piece)
    stopped.add(text[0])
    goes_on = SecondPass(tapped, structure, 64, 512)
    goes_on.restore({name: array.copy() for name, array in stopped.state().items()})
    for piece in text[goes_on.pieces :]:
        goes_on.add(piece)
    for name, array in straight.state().items():
        assert (array == goes_on.state()[name]).all(), name

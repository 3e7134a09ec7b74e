"""The first pass: sums over a stream are those over everything at once."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from halo_edge.calibrate.first_pass import FEATURES, LayerCounts, first_pass
from halo_edge.calibrate.tap import Floats, TappedModel
from halo_edge.groups.profile import quantised

H, F = 12, 20


def rows(n: int, seed: int = 0) -> tuple[Floats, Floats, Floats]:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, H), np.float32) * np.linspace(4, 0.1, H, dtype=np.float32)
    return x, rng.standard_normal((n, F), np.float32), rng.standard_normal((n, H), np.float32)


def counts(samples: int = 1000, stride: int = 1) -> LayerCounts:
    return LayerCounts(np.arange(1, F + 1, dtype=np.float32), H, samples, stride)


def fill(layer: LayerCounts, x: Floats, a: Floats, out: Floats, step: int) -> None:
    signs = np.random.default_rng(1).choice(np.array([-1, 1], np.float32), (len(x), FEATURES))
    for start in range(0, len(x), step):
        part = slice(start, start + step)
        layer.add(x[part], a[part], out[part], signs[part])


def test_importance_is_of_all_tokens() -> None:
    x, a, out = rows(300)
    layer = counts()
    fill(layer, x, a, out, 32)
    expected = np.abs(a).mean(axis=0) * np.arange(1, F + 1)
    np.testing.assert_allclose(layer.importance, expected, rtol=1e-5)
    assert layer.features.shape == (F, FEATURES)


def test_attention_sinks_do_not_count() -> None:
    x, a, out = rows(300)
    layer, other = counts(), counts()
    fill(other, x, a, out, 100)
    x, a, out = (np.insert(values, 100, 1000.0, axis=0) for values in (x, a, out))
    fill(layer, x, a, out, 101)
    np.testing.assert_allclose(layer.importance, other.importance, rtol=0.02)
    assert np.abs(layer.basis(3) - other.basis(3)).max() < 0.1


def test_features_tell_who_fires_together() -> None:
    x, a, out = rows(2000)
    a[:, 1] = 3 * a[:, 0]  # the same, only stronger
    layer = counts()
    fill(layer, x, a, out, 128)
    f = layer.features / np.linalg.norm(layer.features, axis=1, keepdims=True)
    nearness = f @ f.T
    assert nearness[0, 1] > 0.99
    assert abs(nearness[0, 2:]).max() < 0.5


def test_the_basis_is_the_principal_directions_scaled() -> None:
    x, a, out = rows(4000)
    layer = counts(4000)
    fill(layer, x, a, out, 128)
    basis = layer.basis(4)
    assert (basis == quantised(basis)).all()
    z = x @ basis.T
    np.testing.assert_allclose(z.T @ z / len(z), np.eye(4), atol=0.03)
    _, vectors = np.linalg.eigh((x.T @ x).astype(np.float64))
    inside = vectors[:, -4:] @ vectors[:, -4:].T @ basis.T
    assert np.linalg.norm(inside - basis.T) < 0.02 * np.linalg.norm(basis)


def test_the_sample_is_bounded_and_spread() -> None:
    x, a, out = rows(1000)
    x[:, 0] = np.arange(1000)
    layer = counts(samples=50, stride=20)
    fill(layer, x, a, out, 64)
    assert np.isfinite(layer.basis(2)).all()
    kept = layer._sample[:, 0]
    assert len(kept) == 50
    assert kept.tolist() == list(range(0, 1000, 20))


def test_a_model_that_says_nothing_has_a_basis(tapped: TappedModel) -> None:
    layer = counts()
    fill(layer, *(np.zeros_like(values) for values in rows(10)), 5)
    assert np.isfinite(layer.basis(2)).all()
    assert np.isfinite(layer.importance).all()


def test_of_a_model(tapped: TappedModel, pieces: Callable[..., list[list[int]]]) -> None:
    told: list[int] = []
    text = pieces(4)
    found = first_pass(tapped, text, 64, 16, 1, told.append)
    assert told == [96] * 4
    assert found.permutations.shape == (3, 512)
    assert found.bases.shape == (3, 16, 128)
    assert (found.typical > 0).all()
    again = first_pass(tapped, text, 64, 16, 1, told.append)
    assert (again.permutations == found.permutations).all()
    assert (again.bases == found.bases).all()

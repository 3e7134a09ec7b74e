"""Predicted energies: the linear map, its bounds, and that they are right on the average."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from halo_edge.groups.predictor import MAX_OF_MEAN, MIN_OF_MEAN, Predictor
from halo_edge.groups.profile import LayerProfile, Profile


def sketches(layer: LayerProfile, n: int) -> NDArray[np.float32]:
    """Normal, with the mean that the profile tells, and second moments I."""
    rng = np.random.default_rng(2)
    mean = layer.mean.astype(np.float64)
    root = np.linalg.cholesky(np.eye(len(mean)) - np.outer(mean, mean))
    z: NDArray[np.float32] = (mean + rng.standard_normal((n, len(mean))) @ root.T).astype("f4")
    return z


def test_the_linear_map(make_profile: Any) -> None:
    profile = make_profile(n_layers=3)
    z = sketches(profile.layers[0], 5)
    for i, layer in enumerate(profile.layers):
        expected = np.concatenate([z, np.ones((5, 1))], axis=1) @ layer.predictor.T
        np.testing.assert_allclose(
            Predictor(profile).log_energies(i, z), expected, rtol=1e-4, atol=1e-6
        )


def test_right_on_the_average(make_profile: Any) -> None:
    """Though the exponential of the predicted logarithm is far from it."""
    profile: Profile = make_profile(n_layers=2)
    predictor = Predictor(profile)
    for i, layer in enumerate(profile.layers):
        z = sketches(profile.layers[0], 20_000)
        naive = np.exp(predictor.log_energies(i, z)).mean(axis=0) / layer.energy
        assert np.abs(np.log(naive)).max() > 0.5
        predicted = predictor.energies(i, z, range(8)).mean(axis=0)
        # Up to what bounding takes and gives, and how far it could be moved at all.
        inside = np.abs(np.log(naive)) < 1.9
        assert inside.sum() >= 3
        np.testing.assert_allclose(predicted[inside], layer.energy[inside], rtol=0.15)


def test_some_groups_are_those_of_all(make_profile: Any) -> None:
    profile = make_profile()
    predictor, z = Predictor(profile), sketches(profile.layers[0], 7)
    whole = predictor.energies(1, z, range(8))
    np.testing.assert_allclose(predictor.energies(1, z, range(3, 6)), whole[:, 3:6], rtol=1e-5)
    assert predictor.energies(1, z, range(4, 4)).shape == (7, 0)


@pytest.mark.parametrize("value", [1e4, -1e4, 1e30, np.inf, np.nan])
def test_bounds(make_profile: Any, value: float) -> None:
    """Whatever z is, NaN included."""
    profile: Profile = make_profile()
    z = np.full((3, profile.rank), value, np.float32)
    with np.errstate(all="ignore"):
        ratio = Predictor(profile).energies(0, z, range(8)) / profile.layers[0].energy
    assert (ratio > MIN_OF_MEAN * 0.99).all()
    assert (ratio < MAX_OF_MEAN * 1.01).all()


def test_any_profile_gives_finite_energies(make_profile: Any) -> None:
    """A map that explodes, groups without energy, a mean beyond all sense."""
    profile: Profile = make_profile(n_layers=1)
    layer = profile.layers[0]
    wild = replace(
        layer,
        predictor=layer.predictor * np.float32(1e20),
        energy=np.zeros_like(layer.energy),
        mean=layer.mean * np.float32(1e10),
    )
    with np.errstate(all="ignore"):
        predictor = Predictor(replace(profile, layers=(wild,)))
        energies = predictor.energies(0, sketches(layer, 4), range(8))
    assert np.isfinite(energies).all()
    assert (energies >= 0).all()

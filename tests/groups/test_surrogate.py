"""What stands for a partial."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from halo_edge.groups.profile import Profile
from halo_edge.groups.surrogate import MAX_WEIGHT, Fill, Surrogate

HIDDEN = 32


@pytest.fixture
def profile(make_profile: Any) -> Profile:
    made: Profile = make_profile()
    return made


@pytest.fixture
def weights(profile: Profile) -> NDArray[np.float32]:
    rng = np.random.default_rng(4)
    return rng.standard_normal((2, HIDDEN, profile.rank + 1)).astype(np.float32)


def filled(surrogate: Surrogate, layer: int, z: NDArray[np.float32]) -> NDArray[np.float32]:
    out = np.full((len(z), HIDDEN), 7, np.float32)
    surrogate.fill(layer, z, out)
    return out


@pytest.mark.parametrize("tokens", [1, 5])
def test_fills(profile: Profile, weights: NDArray[np.float32], tokens: int) -> None:
    """And what each leaves of a partial is the partial less the fill."""
    z = np.random.default_rng(5).standard_normal((tokens, profile.rank)).astype(np.float32)
    mean = profile.layers[1].mean
    expected = {
        Fill.ZERO: np.zeros((tokens, HIDDEN)),
        Fill.MEAN: np.tile(weights[1, :, :-1] @ mean + weights[1, :, -1], (tokens, 1)),
        Fill.SKETCH: z @ weights[1, :, :-1].T + weights[1, :, -1],
    }
    one = np.ones((tokens, 1), np.float32)
    for fill, values in expected.items():
        surrogate = Surrogate.of(fill, weights, profile)
        np.testing.assert_allclose(filled(surrogate, 1, z), values, rtol=1e-4, atol=1e-5)
        partial = np.full((tokens, HIDDEN), 3, np.float32)
        left = surrogate.left(1, np.concatenate([z, one], axis=1), partial)
        np.testing.assert_allclose(left, 3 - values, rtol=1e-4, atol=1e-4)
        assert surrogate.learns == (fill is Fill.SKETCH)


def test_more_features_are_not_read_before_it_is_widened(
    profile: Profile, weights: NDArray[np.float32]
) -> None:
    """And afterwards change nothing before something was learned of them."""
    surrogate = Surrogate.of(Fill.SKETCH, weights, profile)
    features = np.random.default_rng(5).standard_normal((3, profile.rank + 10)).astype(np.float32)
    before = filled(surrogate, 0, features[:, : profile.rank])
    np.testing.assert_array_equal(filled(surrogate, 0, features), before)
    surrogate.widen(profile.rank + 10)
    assert surrogate.weights.shape == (2, HIDDEN, profile.rank + 11)
    np.testing.assert_allclose(filled(surrogate, 0, features), before, rtol=1e-5, atol=1e-5)
    surrogate.weights[0, :, profile.rank] = 1
    moved = before + features[:, profile.rank : profile.rank + 1]
    np.testing.assert_allclose(filled(surrogate, 0, features), moved, rtol=1e-4, atol=1e-5)
    surrogate.widen(profile.rank + 10)
    assert surrogate.weights.shape == (2, HIDDEN, profile.rank + 11)


@pytest.mark.parametrize("value", [np.nan, np.inf, -2 * MAX_WEIGHT])
def test_weights_beyond_sense_are_refused(
    profile: Profile, weights: NDArray[np.float32], value: float
) -> None:
    weights[1, 2, 3] = value
    with pytest.raises(ValueError, match="out of range"):
        Surrogate.of(Fill.SKETCH, weights, profile)
    with pytest.raises(ValueError, match="out of range"):
        Surrogate.of(Fill.MEAN, weights, profile)


def test_weights_of_another_shape_are_refused(
    profile: Profile, weights: NDArray[np.float32]
) -> None:
    for wrong in (weights[:1], weights[:, 1:], weights[:, :, 1:]):
        with pytest.raises(ValueError, match="shape"):
            Surrogate.of(Fill.SKETCH, wrong, profile)

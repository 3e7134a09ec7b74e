"""Predicted damage: its formula, that it adds up, and that it is a number whatever comes in."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from halo_edge.groups.damage import MAX_CORRECTION, MIN_CORRECTION, DamageModel
from halo_edge.groups.predictor import Predictor
from halo_edge.groups.profile import MAX_NATS, Profile, SpecialPosition
from halo_edge.groups.surrogate import Fill

SHARES = (range(0, 2), range(2, 5), range(5, 8), range(8, 8))
POSITIONS = np.array([5, 6, 7], np.int32)


@pytest.fixture
def profile(make_profile: Any) -> Profile:
    made: Profile = make_profile(special=(SpecialPosition(0, 3.0), SpecialPosition(4, 0.5)))
    return made


@pytest.fixture
def z(profile: Profile) -> NDArray[np.float32]:
    rng = np.random.default_rng(1)
    return rng.standard_normal((3, profile.rank)).astype(np.float32)


@pytest.mark.parametrize("fill", list(Fill))
def test_formula(profile: Profile, z: NDArray[np.float32], fill: Fill) -> None:
    model = DamageModel(profile, SHARES, fill)
    for i, layer in enumerate(profile.layers):
        energies = Predictor(profile).energies(i, z, range(8))
        left = layer.residual / layer.energy if fill is Fill.SKETCH else np.ones(8)
        for device, share in enumerate(SHARES):
            groups = slice(share.start, share.stop)
            expected = energies[:, groups] @ left[groups] * layer.sensitivity / layer.total
            nats = model.nats(i, device, z, POSITIONS)
            np.testing.assert_allclose(nats, expected, rtol=1e-4)
            means = layer.residual if fill is Fill.SKETCH else layer.energy
            static = means[groups].sum() * layer.sensitivity / layer.total
            assert model.static(i, device) == pytest.approx(static, rel=1e-4)
            assert model.mean_energy(i, device) == pytest.approx(layer.energy[groups].sum())


def test_a_fill_costs_less_than_zero(profile: Profile, z: NDArray[np.float32]) -> None:
    zero, fill = (DamageModel(profile, SHARES, kind) for kind in (Fill.ZERO, Fill.SKETCH))
    assert (fill.nats(0, 1, z, POSITIONS) < zero.nats(0, 1, z, POSITIONS)).all()


@given(
    parts=st.lists(st.floats(0, 1, width=32), min_size=1, max_size=5),
    position=st.integers(0, 10),
    seed=st.integers(0, 99),
)
def test_adds_up_over_parts_and_grows(
    make_profile: Any, parts: list[float], position: int, seed: int
) -> None:
    """Over parts of the vector, as over devices; at special positions too."""
    profile = make_profile(special=(SpecialPosition(0, 3.0), SpecialPosition(4, 0.5)))
    z = np.random.default_rng(seed).standard_normal((1, profile.rank)).astype(np.float32)
    model = DamageModel(profile, SHARES, Fill.SKETCH)
    at = np.array([position], np.int32)
    charged = [float(model.nats(0, 1, z, at, part)[0]) for part in parts]
    assert sum(charged) == pytest.approx(float(model.nats(0, 1, z, at, sum(parts))[0]), rel=1e-3)
    ordered = [nats for _, nats in sorted(zip(parts, charged, strict=True))]
    assert ordered == sorted(ordered)
    whole = DamageModel(profile, (range(0, 8),), Fill.ZERO)
    zero = DamageModel(profile, SHARES, Fill.ZERO)
    if position not in (0, 4):
        by_device = sum(float(zero.nats(0, d, z, at)[0]) for d in range(len(SHARES)))
        assert by_device == pytest.approx(float(whole.nats(0, 0, z, at)[0]), rel=1e-3)


def test_parts_of_each_row(profile: Profile, z: NDArray[np.float32]) -> None:
    model = DamageModel(profile, SHARES, Fill.SKETCH)
    missing = np.array([0, 0.25, 1], np.float32)
    whole = model.nats(0, 1, z, POSITIONS)
    np.testing.assert_allclose(model.nats(0, 1, z, POSITIONS, missing), whole * missing)


def test_special_positions(profile: Profile, z: NDArray[np.float32]) -> None:
    """Cost at least what was measured there; the other rows what they always do."""
    model = DamageModel(profile, SHARES, Fill.SKETCH)
    usual = model.nats(0, 2, z, POSITIONS)
    assert usual.max() < 0.5
    nats = model.nats(0, 2, z, np.array([4, 9, 0], np.int32))
    np.testing.assert_allclose(nats, [0.5, usual[1], 3.0], rtol=1e-6)
    half = model.nats(0, 2, z, np.array([4, 9, 0], np.int32), 0.5)
    np.testing.assert_allclose(half, nats / 2, rtol=1e-6)


def test_correction(profile: Profile, z: NDArray[np.float32]) -> None:
    """Of one device's partials of one layer, within bounds."""
    model = DamageModel(profile, SHARES, Fill.SKETCH)
    usual, other = model.nats(1, 1, z, POSITIONS), model.nats(1, 2, z, POSITIONS)
    static = model.static(1, 1)
    for factor, taken in ((3.0, 3.0), (1e9, MAX_CORRECTION), (0.0, MIN_CORRECTION)):
        model.correct(1, 1, factor)
        np.testing.assert_allclose(model.nats(1, 1, z, POSITIONS), usual * taken, rtol=1e-5)
        assert model.static(1, 1) == pytest.approx(static * taken)
        np.testing.assert_array_equal(model.nats(1, 2, z, POSITIONS), other)


@pytest.mark.parametrize("value", [0.0, 1e30, -np.inf, np.nan])
@pytest.mark.parametrize("scale", [0.0, 1e-38, 1e37])
def test_always_a_number(profile: Profile, value: float, scale: float) -> None:
    """From any profile that loads, and any sketch."""
    layer = profile.layers[0]
    wild = replace(
        layer,
        energy=layer.energy * np.float32(scale),
        total=max(scale, 1e-40),
        sensitivity=1e38,
        predictor=layer.predictor * np.float32(max(scale, 1)),
    )
    z = np.full((2, profile.rank), value, np.float32)
    with np.errstate(all="ignore"):
        model = DamageModel(replace(profile, layers=(wild,)), SHARES, Fill.SKETCH)
        for device in range(len(SHARES)):
            nats = model.nats(0, device, z, POSITIONS[:2])
            assert ((nats >= 0) & (nats <= MAX_NATS)).all()

"""A lender's damages on another shape."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from halo_edge.bench.borrowed_profile import borrowed_profile
from halo_edge.groups.profile import LayerProfile, Profile, SpecialPosition


def lender() -> Profile:
    rng = np.random.default_rng(0)

    def layer(sensitivity: float) -> LayerProfile:
        energy = np.sort(rng.random(4).astype(np.float32))[::-1].copy()
        return LayerProfile(
            permutation=np.arange(32, dtype=np.int32),
            basis=np.ones((3, 16), np.float32),
            mean=np.zeros(3, np.float32),
            regression=np.zeros((32, 4), np.float32),
            predictor=np.zeros((4, 4), np.float32),
            energy=energy,
            residual=energy / 2,
            total=2.0 * float(energy.sum()),
            sensitivity=sensitivity,
        )

    layers = tuple(layer(s) for s in (9.0, 0.1, 0.2, 0.1, 3.0))
    return Profile("lender", 8, layers, (SpecialPosition(0, 2.0),), {})


def test_the_ends_are_as_fragile_and_shares_are_kept() -> None:
    profile = borrowed_profile(lender(), "borrower", n_layers=3, hidden=64, ffn=128)
    profile.check_fits("borrower", 3, 64, 128)
    assert [layer.sensitivity for layer in profile.layers] == [9.0, 0.2, 3.0]
    for layer in profile.layers:
        assert layer.energy.shape == (16,)
        np.testing.assert_allclose(layer.residual, layer.energy / 2, rtol=1e-5)
        np.testing.assert_allclose(layer.total, 2 * layer.energy.sum(), rtol=1e-5)
        np.testing.assert_allclose(np.exp(layer.predictor[:, -1]), layer.energy, rtol=1e-5)
    assert profile.special == lender().special


def test_it_can_be_saved_and_read(tmp_path: Path) -> None:

    path = tmp_path / "borrowed.safetensors"
    profile = borrowed_profile(lender(), "borrower", n_layers=2, hidden=64, ffn=100)
    profile.save(path)
    assert Profile.load(path).layers[1].energy.shape == (13,)

"""Profiles of models that do not exist."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from halo_edge.groups.profile import LayerProfile, Profile, SpecialPosition

RANK, GROUP_SIZE = 16, 64


def profile_of(
    *,
    n_layers: int = 2,
    hidden: int = 32,
    neurons: int = 512,
    special: tuple[SpecialPosition, ...] = (),
    basis_scale: float = 1.0,
    seed: int = 0,
) -> Profile:
    """Random, and as calibration might have made it: z has a mean, residuals are below energies."""
    rng = np.random.default_rng(seed)
    groups = neurons // GROUP_SIZE
    layers = []
    for _ in range(n_layers):
        mean = np.zeros(RANK)
        mean[0] = 0.9
        predictor = rng.standard_normal((groups, RANK + 1)) * 0.3
        energy = np.exp(rng.standard_normal(groups))
        layers.append(
            LayerProfile(
                permutation=rng.permutation(neurons).astype(np.int32),
                basis=(basis_scale * rng.standard_normal((RANK, hidden))).astype(np.float32),
                mean=mean.astype(np.float32),
                regression=rng.standard_normal((neurons, RANK + 1)).astype(np.float32),
                predictor=predictor.astype(np.float32),
                energy=energy.astype(np.float32),
                residual=(energy * rng.uniform(0.2, 0.9, groups)).astype(np.float32),
                total=float(energy.sum()),
                sensitivity=float(rng.uniform(0.05, 2)),
            )
        )
    return Profile("f" * 64, GROUP_SIZE, tuple(layers), special, {})


@pytest.fixture(scope="session")
def make_profile() -> Any:
    """`make_profile(n_layers=2, hidden=32, neurons=512, special=(), basis_scale=1, seed=0)`."""
    return profile_of

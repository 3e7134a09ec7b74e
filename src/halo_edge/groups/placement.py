"""Which neurons stand first in a model's order, and so on the root: by the profile, or otherwise,
to measure what the profile's order brings.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from enum import Enum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from halo_edge.groups.profile import Floats, LayerProfile, Profile

Indices = NDArray[np.intp]


class Placement(Enum):
    """CRITICAL: the profile's order, the most important groups first. RANDOM: its groups,
    shuffled. CONTIGUOUS: the neurons as the model file has them."""

    CRITICAL = "critical"
    RANDOM = "random"
    CONTIGUOUS = "contiguous"


def placed(profile: Profile, placement: Placement, seed: int = 0) -> Profile:
    """The profile with its neurons in another order. `seed`: of RANDOM."""
    if placement is Placement.CRITICAL:
        return profile
    if placement is Placement.CONTIGUOUS:
        means = [profile.layers[max(i - 1, 0)].mean for i in range(len(profile.layers))]
        layers = tuple(
            _contiguous(layer, profile.group_size, mean)
            for layer, mean in zip(profile.layers, means, strict=True)
        )
        return replace(profile, layers=layers)
    rng = np.random.default_rng(seed)
    n_groups = len(profile.layers[0].energy)
    # A last group that is smaller must stay the last.
    whole = len(profile.layers[0].permutation) // profile.group_size
    rest = np.arange(whole, n_groups)
    orders = [np.concatenate([rng.permutation(whole), rest]) for _ in profile.layers]
    return reordered(profile, orders)


def reordered(profile: Profile, orders: Sequence[NDArray[Any]]) -> Profile:
    """The profile whose group i of a layer is what was its group `orders[layer][i]`."""
    layers = []
    for layer, order in zip(profile.layers, orders, strict=True):
        parts = np.split(
            np.arange(len(layer.permutation)),
            range(profile.group_size, len(layer.permutation), profile.group_size),
        )
        neurons = np.concatenate([parts[group] for group in order])
        layers.append(
            replace(
                layer,
                permutation=layer.permutation[neurons],
                regression=layer.regression[neurons],
                predictor=layer.predictor[order],
                energy=layer.energy[order],
                residual=layer.residual[order],
            )
        )
    return replace(profile, layers=tuple(layers))


def _contiguous(layer: LayerProfile, group_size: int, mean: Floats) -> LayerProfile:
    """The layer with its neurons as in the file. `mean`: of the sketch its predictor reads.

    What groups of these would have measured is not known. Each neuron is taken to have an equal
    part of its old group's energy, and parts to add up, though energies of vectors need not. So the
    predicted energy of a new group is sum_g s_g exp(W_g [z, 1]), with s_g the part of old group g
    that it has; the logarithm of that is linearised at the mean of z, where its gradient is the
    mean of W_g weighted by the terms.
    """
    inverse: Indices = np.argsort(layer.permutation)
    neurons, n_groups = len(inverse), len(layer.energy)
    sizes = np.bincount(np.arange(neurons) // group_size, minlength=n_groups)
    share = np.zeros((n_groups, n_groups), np.float32)  # of old group [column] in new group [row]
    np.add.at(share, (np.arange(neurons) // group_size, inverse // group_size), 1)
    share /= sizes
    at_mean = layer.predictor @ np.append(mean, np.float32(1))
    top = at_mean.max()
    terms = share * np.exp(at_mean - top)
    slopes = (terms / terms.sum(axis=1, keepdims=True)) @ layer.predictor[:, :-1]
    bias: Floats = np.log(terms.sum(axis=1)) + top - slopes @ mean
    return replace(
        layer,
        permutation=np.arange(neurons, dtype=np.int32),
        regression=layer.regression[inverse],
        predictor=np.concatenate([slopes, bias[:, None]], axis=1).astype(np.float32),
        energy=share @ layer.energy,
        residual=share @ layer.residual,
    )

"""A profile for a model of random weights, with another model's damages.

A synthetic model has the sizes of a real one and takes its time, but knows nothing that it could
lose: calibrated by itself it would say that going on without any chunk costs next to nothing, and
a relaxed root would look faster than it is. So for experiments on speed it borrows what calibration
found out about a real model: the layers' sensitivities and each group's share of the energy, and
how much of it a fill leaves. Its sketch is random and its fill is zero, which takes as long.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from halo_edge.groups.partition import Partition
from halo_edge.groups.profile import LayerProfile, Profile

SEED: Final = 1


def borrowed_profile(
    lender: Profile, fingerprint: str, n_layers: int, hidden: int, ffn: int
) -> Profile:
    """For a model of these sizes. Layers and groups are matched by their relative depth and rank,
    so that the first is as fragile as the lender's first, and the last as its last."""
    rng = np.random.default_rng(SEED)
    rank = min(lender.rank, hidden)
    partition = Partition(ffn, lender.group_size)
    layers = []
    for layer in range(n_layers):
        model = lender.layers[_matching(layer, n_layers, len(lender.layers))]
        energy = _stretched(model.energy, partition.n_groups)
        left = (model.residual / np.maximum(model.energy, 1e-30)).astype(np.float32)
        predictor = np.zeros((partition.n_groups, rank + 1), np.float32)
        predictor[:, -1] = np.log(np.maximum(energy, 1e-30))
        layers.append(
            LayerProfile(
                permutation=np.arange(ffn, dtype=np.int32),
                basis=(rng.standard_normal((rank, hidden)) / np.sqrt(hidden)).astype(np.float32),
                mean=np.zeros(rank, np.float32),
                regression=np.zeros((ffn, rank + 1), np.float32),
                predictor=predictor,
                energy=energy,
                residual=energy * _stretched(left, partition.n_groups),
                total=model.total * float(energy.sum() / model.energy.sum()),
                sensitivity=model.sensitivity,
            )
        )
    return Profile(
        fingerprint, lender.group_size, tuple(layers), lender.special, {"borrowed": "yes"}
    )


def _matching(index: int, count: int, lender_count: int) -> int:
    """The lender's item at the same relative place; the ends match."""
    if count == 1:
        return 0
    return round(index * (lender_count - 1) / (count - 1))


def _stretched(values: NDArray[np.float32], count: int) -> NDArray[np.float32]:
    """`values` over `count` places."""
    places = np.linspace(0, len(values) - 1, count)
    return np.interp(places, np.arange(len(values)), values).astype(np.float32)

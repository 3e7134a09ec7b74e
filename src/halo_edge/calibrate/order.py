"""The order of a layer's neurons: importance tiers, and inside them clusters that fire together.

Neurons that are active together belong into one group: then a group is either needed or not, which
can be predicted, and leaving out the least costs least (contiguous neurons cost twice to three
times as much, docs/calibration.md). Tiers come first, so that any device's share, cut from the
order, is about as important as its place says.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Final

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

TIERS: Final = 8
ITERATIONS: Final = 12


def permutation(
    importance: Floats, features: Floats, group_size: int, rng: np.random.Generator
) -> NDArray[np.int32]:
    """[F]: the neurons in their new order.

    `importance`: [F], mean |a| times the norm of the neuron's column of `down`. `features`: [F, n],
    rows whose inner products say how much neurons fire together.
    """
    neurons = len(importance)
    whole = neurons // group_size
    by_importance = np.argsort(-importance, kind="stable")
    tiers = min(TIERS, max(whole, 1))
    bounds = [round(whole * i / tiers) * group_size for i in range(tiers)] + [whole * group_size]
    order = []
    for start, stop in pairwise(bounds):
        tier = by_importance[start:stop]
        groups = clusters(features[tier], group_size, rng)
        # Inside a tier, too, the most important group first.
        weight = [-importance[tier[group]].sum() for group in groups]
        order += [tier[groups[i]] for i in np.argsort(weight, kind="stable")]
    order.append(by_importance[whole * group_size :])  # a last, smaller group of the least
    return np.concatenate(order).astype(np.int32)


def clusters(features: Floats, size: int, rng: np.random.Generator) -> list[NDArray[np.intp]]:
    """Balanced k-means by cosine: the rows of `features` [n, d] in n / size clusters of `size`.

    Rows take turns in the order of how much they would lose by going to another cluster, each to
    the nearest that has room: not optimal, but never far off, and never unbalanced.
    """
    n = len(features)
    count = n // size
    if count <= 1:
        return [np.arange(n)] if n else []
    norms = np.linalg.norm(features, axis=1, keepdims=True)
    rows = features / np.maximum(norms, 1e-12)
    centres = rows[rng.choice(n, count, replace=False)]
    assigned = np.zeros(n, np.intp)
    for _ in range(ITERATIONS):
        before = assigned
        assigned = _balanced(rows @ centres.T, size)
        if (assigned == before).all():
            break
        centres = np.stack([rows[assigned == i].sum(axis=0) for i in range(count)])
        centres /= np.maximum(np.linalg.norm(centres, axis=1, keepdims=True), 1e-12)
    return [np.flatnonzero(assigned == i) for i in range(count)]


def _balanced(nearness: Floats, size: int) -> NDArray[np.intp]:
    """Each row's cluster, of `nearness` [n, clusters]; `size` rows in every cluster."""
    n, count = nearness.shape
    preference = np.argsort(-nearness, axis=1)
    best = np.take_along_axis(nearness, preference[:, :2], axis=1)
    turn = np.argsort(-(best[:, 0] - best[:, 1]), kind="stable")
    room = np.full(count, size)
    assigned = np.empty(n, np.intp)
    for row in turn:
        for cluster in preference[row]:
            if room[cluster]:
                room[cluster] -= 1
                assigned[row] = cluster
                break
    return assigned

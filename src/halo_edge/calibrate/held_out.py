"""How well a profile's fill and predictor do on text that they were not made from.

What is left after a fill has to be measured there: on the text that it was made from it is some
15 % less.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from halo_edge.calibrate.first_pass import Structure
from halo_edge.calibrate.second_pass import Moments, with_one
from halo_edge.calibrate.tap import Floats, TappedModel
from halo_edge.calibrate.usual import energies, is_usual


@dataclass(frozen=True, eq=False)
class Fit:
    """`left`: f32[L, G], the share of each group's energy that its fill leaves, 0 ... 1.
    `spearman`: f64[L], of predicted and true energies over the groups of a token, the mean."""

    left: Floats
    spearman: Floats


def fit(
    tapped: TappedModel,
    pieces: Sequence[Sequence[int]],
    structure: Structure,
    layers: Sequence[Moments],
    progress: Callable[[int], None],
) -> Fit:
    """Of the regressions and predictors of `layers` on `pieces`."""
    regressions = [layer.regression for layer in layers]
    predictors = [layer.predictor for layer in layers]
    shape = len(layers), layers[0].grouped.n_groups
    energy, residual = np.zeros(shape), np.zeros(shape)
    correlation, tokens = np.zeros(len(layers)), np.zeros(len(layers))
    before: Floats = np.zeros((0, 0), np.float32)

    def look(at: int, _: slice, x: Floats, activations: Floats, out: Floats) -> None:
        nonlocal before
        grouped = layers[at].grouped
        rows = is_usual(energies(out), float(structure.typical[at]))
        z = with_one(x, structure.bases[at])
        before_z = z if at == 0 else before
        before = z
        permuted = grouped.permuted(activations, rows)
        true = grouped.energies(permuted)
        energy[at] += true.sum(axis=0)
        residual[at] += grouped.energies(permuted - z[rows] @ regressions[at].T).sum(axis=0)
        correlation[at] += rank_correlations(before_z[rows] @ predictors[at].T, true).sum()
        tokens[at] += len(true)

    for piece in pieces:
        tapped.run(piece, look=look)
        progress(len(piece))
    left = np.divide(residual, energy, out=np.ones(shape), where=energy > 0)
    return Fit(
        np.clip(left, 0, 1).astype(np.float32),
        (correlation / np.maximum(tokens, 1)).astype(np.float32),
    )


def rank_correlations(a: Floats, b: Floats) -> Floats:
    """Spearman's, of each row of a and b, [T, n]: f64[T]. 0 for rows of one value."""
    ranks = []
    for values in (a, b):
        rank = np.argsort(np.argsort(values, axis=1), axis=1).astype(np.float64)
        ranks.append(rank - rank.mean(axis=1, keepdims=True))
    products = (ranks[0] * ranks[1]).sum(axis=1)
    norms = np.sqrt((ranks[0] ** 2).sum(axis=1) * (ranks[1] ** 2).sum(axis=1))
    result: Floats = products / np.maximum(norms, 1e-12)
    return result

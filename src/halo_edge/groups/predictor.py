"""Predicted energies of neuron groups, before the groups are computed.

A linear map of the sketch of the layer before gives the logarithm of each group's energy. Here is
what makes energies of it that can be summed: the exponential of an unbiased logarithm is too small
on the average, and of one that lies outside of what was calibrated anything at all.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from halo_edge.groups.profile import Floats, LayerProfile, Profile

MIN_OF_MEAN: Final = 0.03
MAX_OF_MEAN: Final = 30.0
"""Between them lies a predicted energy, as a multiple of the group's mean."""
MAX_SHIFT: Final = 2.0
"""Of a logarithm, in nats, to bring the mean of the predicted energies to the measured mean."""
_TINY: Final = 1e-30  # for logarithms of groups without energy


class Predictor:
    """`z` is always the sketch that predicts the layer: `Sketch.before`, f32[T, K]."""

    def __init__(self, profile: Profile) -> None:
        self._weights = [np.ascontiguousarray(p.predictor[:, :-1]) for p in profile.layers]
        self._bias = [p.predictor[:, -1].copy() for p in profile.layers]
        self._shift: list[Floats] = []
        self._low: list[Floats] = []
        self._high: list[Floats] = []
        for i, layer in enumerate(profile.layers):
            mean = np.log(np.maximum(layer.energy, _TINY))
            self._low.append(mean + np.float32(np.log(MIN_OF_MEAN)))
            self._high.append(mean + np.float32(np.log(MAX_OF_MEAN)))
            shift = mean - _log_mean(layer, profile.layers[max(i - 1, 0)].mean)
            self._shift.append(np.clip(shift, -MAX_SHIFT, MAX_SHIFT).astype(np.float32))

    def log_energies(self, layer: int, z: Floats) -> Floats:
        """ln of the energy of every group as the linear map has it, f32[T, G]."""
        logs: Floats = z @ self._weights[layer].T
        logs += self._bias[layer]
        return logs

    def energies(self, layer: int, z: Floats, groups: range) -> Floats:
        """The energies of consecutive `groups`, f32[T, len(groups)]: bounded, and right on the
        average. What cannot be predicted, z being no number, is as large as it can be."""
        part = slice(groups.start, groups.stop)
        logs = z @ self._weights[layer][part].T
        logs += self._bias[layer][part] + self._shift[layer][part]
        np.fmin(logs, self._high[layer][part], out=logs)  # fmin and fmax: not the one that is NaN
        np.fmax(logs, self._low[layer][part], out=logs)
        energies: Floats = np.exp(logs, out=logs)
        return energies


def _log_mean(layer: LayerProfile, mean: Floats) -> Floats:
    """ln of the mean of exp(W z + b), f32[G], were z normal: exp(mu + var / 2) of a log-normal."""
    weights = layer.predictor[:, :-1].astype(np.float64)
    along = weights @ mean
    variance = np.maximum((weights**2).sum(axis=1) - along**2, 0)  # the mean of z z^T is I
    result: Floats = np.clip(layer.predictor[:, -1] + along + variance / 2, -1e30, 1e30).astype(
        np.float32
    )
    return result

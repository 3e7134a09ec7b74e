"""How far the predicted damage is off on the text at hand, from partials that did arrive.

On text unlike that of calibration a fill leaves more than it was measured to leave, and groups have
other energies: by a factor of two is usual. It is off alike in most layers, so what all layers and
devices show together is believed soon, after some dozens of rows; what is peculiar to one takes
rows of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from halo_edge.groups.damage import DamageModel

OWN_ROWS: Final = 300.0
"""Rows over which one layer's and device's ratio is averaged."""
PRIOR_ROWS: Final = 40.0
"""What all of them show together counts for so many rows of each."""
SHARED_ROWS: Final = 1500.0
"""Rows, of all layers and devices, over which that is averaged."""
SHARED_PRIOR_ROWS: Final = 60.0
"""The profile's own word counts for so many rows there."""


class Corrections:
    """Of the damage model, for `devices`, in all layers."""

    def __init__(self, damage: DamageModel, n_layers: int, devices: Sequence[int]) -> None:
        self._damage = damage
        self._devices = list(devices)
        usual = [
            [damage.mean_lost_energy(i, device) for device in devices] for i in range(n_layers)
        ]
        self._usual: NDArray[np.float64] = np.maximum(np.array(usual, np.float64), 1e-30)
        self._left = np.zeros_like(self._usual)  # in units of `_usual`, as is `_predicted`
        self._predicted = np.zeros_like(self._usual)
        self._shared_left = self._shared_predicted = 0.0

    def add(self, layer: int, i: int, rows: int, left: float, predicted: float) -> None:
        """Rows of the `i`-th device's partials. `left`: the energy that the fill does not say of
        them, `predicted`: what `DamageModel.lost_energy` had it to be; both summed."""
        usual = self._usual[layer, i]
        left, predicted = left / usual, predicted / usual
        keep = (1 - 1 / OWN_ROWS) ** rows
        self._left[layer, i] = keep * self._left[layer, i] + left
        self._predicted[layer, i] = keep * self._predicted[layer, i] + predicted
        keep = (1 - 1 / SHARED_ROWS) ** rows
        self._shared_left = keep * self._shared_left + left
        self._shared_predicted = keep * self._shared_predicted + predicted

    def apply(self) -> None:
        """Correct the damage model by what was added so far."""
        shared = (self._shared_left + SHARED_PRIOR_ROWS) / (
            self._shared_predicted + SHARED_PRIOR_ROWS
        )
        factors = (self._left + PRIOR_ROWS * shared) / (self._predicted + PRIOR_ROWS)
        for layer, row in enumerate(factors.tolist()):
            for device, factor in zip(self._devices, row, strict=True):
                self._damage.correct(layer, device, factor)

"""What it costs to go on without a device's partial, in nats of KL.

A layer's sensitivity times the share of its energy that stays lost: damages add up, over devices,
layers, tokens and parts of a vector, as long as they are small (MEASUREMENTS.md: within 5 % up to a
loss of 10 %). Who may spend how much is the budget's business.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from halo_edge.groups.predictor import Predictor
from halo_edge.groups.profile import MAX_NATS, Floats, Profile
from halo_edge.groups.surrogate import Fill

MIN_CORRECTION: Final = 0.1
MAX_CORRECTION: Final = 10.0
_MOST_NATS_PER_ENERGY: Final = 1e30  # a profile may hold anything that is finite


class DamageModel:
    """`shares[d]`: the neuron groups of device `d`, in every layer.

    Layers' sensitivities already tell of those that are fragile, and the profile's special
    positions of attention sinks: no index is written here.
    """

    def __init__(self, profile: Profile, shares: Sequence[range], fill: Fill) -> None:
        self._predictor = Predictor(profile)
        self._shares = tuple(shares)
        self._nats = [
            min(layer.sensitivity / layer.total, _MOST_NATS_PER_ENERGY) for layer in profile.layers
        ]
        self._special = [(special.position, special.nats) for special in profile.special]
        self._last_special = max((s.position for s in profile.special), default=-1)
        # What is left of a group's energy after its fill. The mean repairs next to nothing.
        self._left: list[Floats] = [
            np.divide(
                layer.residual,
                layer.energy,
                out=np.zeros_like(layer.energy),
                where=layer.energy > 0,
            )
            if fill is Fill.SKETCH
            else np.ones_like(layer.energy)
            for layer in profile.layers
        ]
        self._energies = [layer.energy for layer in profile.layers]
        self._correction: NDArray[np.float64] = np.ones((len(profile.layers), len(shares)))

    def lost_energy(self, layer: int, device: int, z_before: Floats) -> Floats:
        """The energy that the fill of the device's partials will miss, f32[T], not corrected.

        `z_before`: `Sketch.before` of `layer`, f32[T, K].
        """
        share = self._shares[device]
        energies = self._predictor.energies(layer, z_before, share)
        return energies @ self._left[layer][share.start : share.stop]

    def nats(
        self,
        layer: int,
        device: int,
        z_before: Floats,
        positions: NDArray[np.int32],
        missing: float | Floats = 1.0,
    ) -> Floats:
        """The damage to each row, f32[T], of going on without so much of it.

        `positions`: of the rows in their sequences, i32[T]. `missing`: the share of a row's values
        that is not there, 0 ... 1, of all rows or of each, f32[T]. Never negative, NaN, or above
        `MAX_NATS`.
        """
        nats = self.lost_energy(layer, device, z_before)
        nats *= self._nats[layer] * self._correction[layer, device]
        if self._last_special >= 0 and positions.min() <= self._last_special:
            for position, least in self._special:
                nats[positions == position] = np.maximum(nats[positions == position], least)
        np.fmin(nats, MAX_NATS, out=nats)
        nats *= missing
        return nats

    def mean_energy(self, layer: int, device: int) -> float:
        """Of the device's partials of the layer."""
        share = self._shares[device]
        return float(self._energies[layer][share.start : share.stop].sum())

    def mean_lost_energy(self, layer: int, device: int) -> float:
        """The mean of `lost_energy`."""
        part = slice(self._shares[device].start, self._shares[device].stop)
        return float(self._energies[layer][part] @ self._left[layer][part])

    def static(self, layer: int, device: int) -> float:
        """The mean damage to a row in nats, whatever the row."""
        correction = float(self._correction[layer, device])
        return self.mean_lost_energy(layer, device) * self._nats[layer] * correction

    def correct(self, layer: int, device: int, factor: float) -> None:
        """Measured energies are `factor` times as large as `lost_energy` has it."""
        self._correction[layer, device] = min(max(factor, MIN_CORRECTION), MAX_CORRECTION)

"""How much it costs to go on without neuron groups, of all of a model's layers at once.

The same sums as `DamageModel.static` makes, kept so that any range of groups takes one subtraction:
a scheduler asks for thousands.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from halo_edge.groups.profile import Profile
from halo_edge.groups.surrogate import Fill

Nats = NDArray[np.float64]


class Criticality:
    """Of the groups in a profile's order."""

    def __init__(self, nats: Nats) -> None:
        """`nats`: [layers, groups], the mean damage to a token of losing each group."""
        self.n_layers, self.n_groups = nats.shape
        self._sums = np.concatenate(
            [np.zeros((self.n_layers, 1)), np.cumsum(nats, axis=1, dtype=np.float64)], axis=1
        )

    @classmethod
    def of(cls, profile: Profile, fill: Fill) -> Criticality:
        """As calibration found them, with that in the place of what is lost."""
        rows = []
        for layer in profile.layers:
            lost = layer.residual if fill is Fill.SKETCH else layer.energy
            lost = np.where(layer.energy > 0, lost, 0.0)
            rows.append(lost.astype(np.float64) * (layer.sensitivity / layer.total))
        return cls(np.stack(rows))

    def nats(self, groups: range) -> Nats:
        """[layers]: the mean damage of losing these consecutive groups in each layer."""
        if not groups:
            return np.zeros(self.n_layers)
        damage: Nats = self._sums[:, groups.stop] - self._sums[:, groups.start]
        return damage

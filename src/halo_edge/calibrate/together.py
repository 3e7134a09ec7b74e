"""How damages add up: losses in all layers at once, as a bad link makes them.

What is predicted from the energy that was truly lost, after the fill, is wrong only where damages
do not add up; that ratio sets the sensitivities right. Beside it stands what the budget would have
been charged, which knows predicted energies only. With each kind of fill it also tells how much of
the damage the fill repairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from halo_edge.calibrate.grouped import Grouped
from halo_edge.calibrate.second_pass import with_one
from halo_edge.calibrate.sweep import DEVICES, Window, shares
from halo_edge.calibrate.tap import Floats, TappedModel
from halo_edge.groups.damage import DamageModel
from halo_edge.groups.partition import Partition
from halo_edge.groups.profile import Profile
from halo_edge.groups.surrogate import Fill

LOST_SHARE: Final = 0.03
"""Of every remote device's partials: little enough that damages still add up, much enough to
measure in a few hundred tokens."""
MOST_NATS: Final = 0.1
"""What costs more than this is never gone without, whatever the budget, and is not lost here."""


@dataclass(frozen=True)
class Damage:
    """In nats: what it was, what the energy that was lost lets expect, and what the budget would
    have been charged."""

    measured: float = 0.0
    expected: float = 0.0
    charged: float = 0.0

    def __add__(self, other: Damage) -> Damage:
        return Damage(
            self.measured + other.measured,
            self.expected + other.expected,
            self.charged + other.charged,
        )


class Together:
    """Loses partials of a profile's groups. The same ones with every fill."""

    def __init__(self, tapped: TappedModel, profile: Profile, grouped: Sequence[Grouped]) -> None:
        """`grouped`: of each layer."""
        self._tapped = tapped
        self._grouped = grouped
        self._profile = profile
        neurons = len(profile.layers[0].permutation)
        self._shares = shares(neurons, profile.group_size)
        partition = Partition(neurons, profile.group_size)
        self._parts = [partition.neuron_range(share) for share in self._shares]
        zero = DamageModel(profile, self._shares, Fill.ZERO)
        self._may_be_lost: NDArray[np.bool_] = np.array(
            [
                [device > 0 and zero.static(i, device) < MOST_NATS for device in range(DEVICES)]
                for i in range(len(profile.layers))
            ]
        )

    def damage(self, window: Window, fill: Fill, rng: np.random.Generator) -> Damage:
        """`fill`: ZERO or SKETCH."""
        profile = self._profile
        model = DamageModel(profile, self._shares, fill)
        lost = rng.random((len(profile.layers), DEVICES, len(window.tokens))) < LOST_SHARE
        lost &= self._may_be_lost[:, :, None]
        lost &= window.usual[:, None, :]
        for special in profile.special:
            lost[:, :, special.position : special.position + 1] = False
        measured = expected = charged = 0.0
        before: Floats = np.zeros((0, 0), np.float32)

        def spoil(at: int, positions: slice, x: Floats, activations: Floats) -> None:
            nonlocal before, expected, charged
            layer = profile.layers[at]
            z = with_one(x, layer.basis)
            before_z = z if at == 0 else before
            before = z
            where = np.arange(positions.start, positions.stop, dtype=np.int32)
            for device in range(1, DEVICES):
                rows = np.flatnonzero(lost[at, device, positions])
                if not len(rows):
                    continue
                nats = model.nats(at, device, before_z[rows, :-1], where[rows])
                charged += float(nats.sum())
                part = slice(self._parts[device].start, self._parts[device].stop)
                filled = np.ix_(rows, layer.permutation[part])
                left = np.zeros((len(rows), len(layer.permutation)), np.float32)
                left[:, part] = activations[filled]
                if fill is Fill.SKETCH:
                    activations[filled] = z[rows] @ layer.regression[part].T
                else:
                    activations[filled] = 0.0
                left[:, part] -= activations[filled]
                energy = float(self._grouped[at].energies(left).sum())
                expected += layer.sensitivity / layer.total * energy

        def judge(positions: slice, logits: Floats) -> None:
            nonlocal measured
            measured += float(window.reference.nats(positions, logits).sum())

        self._tapped.run(window.tokens, spoil=spoil, judge=judge)
        return Damage(measured, expected, charged)

"""What it costs to lose a part of a layer: measured, by losing it.

For one layer after another, at some tokens of a window chosen at random, the activations of the
neurons that one device would hold are set to zero, and the KL divergence of all tokens' predictions
from the undisturbed ones is added up. Divided by the energy that was lost, that is the layer's
sensitivity. Losing it at a special position is measured by itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import numpy as np
from numpy.typing import NDArray

from halo_edge.calibrate.divergence import Reference
from halo_edge.calibrate.tap import Floats, Replay, Spoil, TappedModel
from halo_edge.calibrate.usual import energies, is_usual
from halo_edge.groups.partition import Partition

LOST_SHARE: Final = 0.25
"""Of the tokens of a window that lose a device's part."""
DEVICES: Final = 4
"""The layer is split as over so many devices; the first part is the root's, and never lost."""


@dataclass(frozen=True, eq=False)
class Window:
    """A window of text as the model computes it undisturbed. `outputs`: of the FFN, f32[L, T, H];
    `usual`: bool[L, T]."""

    tokens: Sequence[int]
    reference: Reference
    outputs: Floats
    usual: NDArray[np.bool_]


def undisturbed(tapped: TappedModel, tokens: Sequence[int], typical: NDArray[np.float64]) -> Window:
    """Compute a window. `typical`: f64[L], the median energies of the FFN's outputs."""
    params = tapped.model.params
    outputs = np.zeros((params.n_layers, len(tokens), params.hidden), np.float32)
    usual = np.zeros((params.n_layers, len(tokens)), np.bool_)
    reference = Reference(len(tokens), params.vocab)

    def look(layer: int, positions: slice, _: Floats, __: Floats, out: Floats) -> None:
        outputs[layer, positions] = out
        usual[layer, positions] = is_usual(energies(out), float(typical[layer]))

    tapped.run(tokens, look=look, judge=reference.keep)
    return Window(tokens, reference, outputs, usual)


def shares(neurons: int, group_size: int) -> tuple[range, ...]:
    """The groups of each of `DEVICES` devices."""
    groups = Partition(neurons, group_size).n_groups
    bounds = [round(groups * i / DEVICES) for i in range(DEVICES + 1)]
    return tuple(range(a, b) for a, b in pairwise(bounds))


class Sweep:
    """`permutations`: i32[L, F]; `totals`: of each layer, the mean energy of its output."""

    def __init__(
        self,
        tapped: TappedModel,
        permutations: NDArray[np.int32],
        group_size: int,
        totals: Sequence[float],
        special: frozenset[int],
    ) -> None:
        self._tapped = tapped
        self._permutations = permutations
        partition = Partition(permutations.shape[1], group_size)
        self._parts = [
            partition.neuron_range(share) for share in shares(partition.neurons, group_size)
        ]
        self._totals = totals
        self._special = special

    def layer(self, layer: int, window: Window, rng: np.random.Generator) -> tuple[float, float]:
        """Nats lost over the window, and the energy lost in units of the layer's total."""
        length = len(window.tokens)
        chosen = np.where(rng.random(length) < LOST_SHARE, rng.integers(1, DEVICES, length), 0)
        chosen[~window.usual[layer]] = 0
        for position in self._special:
            chosen[position : position + 1] = 0
        neurons = [self._permutations[layer, part.start : part.stop] for part in self._parts]
        down = self._tapped.down(layer)
        columns = [down[:, n] for n in neurons]
        lost = 0.0

        def spoil(at: int, positions: slice, _: Floats, activations: Floats) -> None:
            nonlocal lost
            if at != layer:
                return
            for device in range(1, DEVICES):
                rows = np.flatnonzero(chosen[positions] == device)
                if len(rows):
                    where = np.ix_(rows, neurons[device])
                    lost += float(energies(activations[where] @ columns[device].T).sum())
                    activations[where] = 0.0

        return self._damage(layer, window, spoil), lost / self._totals[layer]

    def special(self, layer: int, position: int, window: Window) -> float:
        """Nats over the window that losing all remote parts of one layer there costs."""
        neurons = self._permutations[layer, self._parts[0].stop :]

        def spoil(at: int, positions: slice, _: Floats, activations: Floats) -> None:
            if at == layer and positions.start <= position < positions.stop:
                activations[position - positions.start, neurons] = 0.0

        return self._damage(layer, window, spoil)

    def _damage(self, layer: int, window: Window, spoil: Spoil) -> float:
        """Nats over the window, of what is done to `layer`."""
        nats = 0.0

        def judge(positions: slice, logits: Floats) -> None:
            nonlocal nats
            nats += float(window.reference.nats(positions, logits).sum())

        replay = Replay(window.outputs, layer)
        self._tapped.run(window.tokens, spoil=spoil, judge=judge, replay=replay)
        return nats

"""The true energies of all neuron groups over a text, and all that one might predict them from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from halo_edge.calibrate.grouped import Grouped
from halo_edge.calibrate.tap import Floats, TappedModel
from halo_edge.compute.tapped_ffn import dequantised
from halo_edge.compute.weights import Matrix
from halo_edge.engine.load import LoadedModel
from halo_edge.groups.profile import Profile


@dataclass(frozen=True, eq=False)
class Observed:
    """One piece of text of T tokens. `tokens`: i[T]; `sketches`: f32[L, T, K]; `energies`:
    f32[L, T, G]."""

    tokens: NDArray[np.int64]
    sketches: Floats
    energies: Floats


class Observer:
    """Computes pieces of text with a model and looks at its neuron groups as a profile has them."""

    def __init__(self, model: LoadedModel, profile: Profile) -> None:
        self._model = model
        self._profile = profile
        self._tapped = TappedModel(model)
        self._grouped = [
            Grouped(layer.permutation, self._tapped.down(i), profile.group_size)
            for i, layer in enumerate(profile.layers)
        ]

    def observe(self, piece: Sequence[int]) -> Observed:
        """Raises `HaloError` where the KV cache is too small."""
        layers, n = self._profile.layers, len(piece)
        sketches = np.empty((len(layers), n, self._profile.rank), np.float32)
        energies = np.empty((len(layers), n, self._grouped[0].n_groups), np.float32)

        def look(layer: int, at: slice, x: Floats, activations: Floats, _: Floats) -> None:
            permuted = activations[:, layers[layer].permutation]
            sketches[layer, at] = x @ layers[layer].basis.T
            energies[layer, at] = self._grouped[layer].energies(permuted)

        self._tapped.run(piece, look=look)
        return Observed(np.array(piece), sketches, energies)

    def embeddings(self, tokens: NDArray[np.int64]) -> Floats:
        """Of token ids i[n], f32[n, H]."""
        matrix = Matrix.from_gguf(self._model.gguf, "token_embd.weight")
        rows = [dequantised(matrix.row_range(int(token), int(token) + 1)) for token in tokens]
        return np.concatenate(rows)

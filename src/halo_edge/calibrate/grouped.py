"""Energies of a layer's neuron groups, from its activations.

|D_g a_g|^2 = a_g^T (D_g^T D_g) a_g: with the products in parentheses made once, a token's energies
cost a tenth of multiplying with all of `down`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from halo_edge.calibrate.tap import Floats
from halo_edge.groups.partition import Partition


class Grouped:
    """The groups of one layer."""

    def __init__(self, permutation: NDArray[np.int32], down: Floats, group_size: int) -> None:
        """`permutation`: i32[F]; `down`: f32[H, F] as in the file."""
        partition = Partition(len(permutation), group_size)
        self._permutation = permutation.astype(np.intp)
        self.neurons = len(permutation)
        self.n_groups = partition.n_groups
        self._size = group_size
        columns = np.zeros((self.n_groups * group_size, len(down)), np.float32)
        columns[: self.neurons] = down[:, permutation].T  # a last, smaller group is filled up
        blocks = columns.reshape(self.n_groups, group_size, -1)
        self._products: Floats = blocks @ blocks.transpose(0, 2, 1)

    def permuted(self, activations: Floats, rows: NDArray[np.bool_]) -> Floats:
        """The rows of f32[T, F], neurons as in the file, for which `rows`, bool[T], is true."""
        taken: Floats = np.take(activations, self._permutation, axis=1)
        return taken if rows.all() else taken[rows]

    def energies(self, activations: Floats) -> Floats:
        """f32[T, G] of the groups' partials, for f32[T, F] as permuted."""
        missing = self.n_groups * self._size - self.neurons
        padded = np.pad(activations, ((0, 0), (0, missing))) if missing else activations
        blocks = padded.reshape(len(padded), self.n_groups, self._size).transpose(1, 0, 2)
        energies = np.einsum("gti,gti->tg", blocks @ self._products, blocks)
        result: Floats = np.maximum(energies, 0)
        return result

"""The second pass over the text: the moments from which regressions and means follow.

Order and sketch are known by now, so all that is kept are sums of a fixed size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from halo_edge.calibrate.first_pass import Structure
from halo_edge.calibrate.grouped import Grouped
from halo_edge.calibrate.tap import Floats, TappedModel
from halo_edge.calibrate.usual import energies, is_usual
from halo_edge.groups.profile import quantised

RIDGE: Final = 1e-3
"""Of the second moment of z, which is 1: keeps what little text says of rare directions small."""
LEAST_ENERGY: Final = 1e-4
"""Of a step's mean energy of a group: below it a logarithm would only tell noise."""


class Moments:
    """Of one layer: of [z, 1], of the activations with it, and of the logarithms of the groups'
    energies with [z, 1] of the layer before. Neurons are numbered as permuted."""

    def __init__(self, grouped: Grouped, rank: int) -> None:
        n = rank + 1
        self.grouped = grouped
        self._tokens = 0
        self._zz = np.zeros((n, n))
        self._za = np.zeros((n, grouped.neurons), np.float32)
        self._before = np.zeros((n, n))
        self._log = np.zeros((n, grouped.n_groups))
        self._energy = np.zeros(grouped.n_groups)
        self._total = 0.0

    def add(self, z: Floats, before: Floats, activations: Floats, out: Floats) -> None:
        """Rows of usual tokens. `z`, `before`: [z, 1] of the layer and of the one before it;
        `activations`: f32[T, F] as permuted, `out`: f32[T, H]."""
        if not len(z):
            return
        groups = self.grouped.energies(activations)
        self._zz += z.T @ z
        self._za += z.T @ activations
        self._before += before.T @ before
        self._log += before.T @ np.log(groups + LEAST_ENERGY * groups.mean(axis=0) + 1e-30)
        self._energy += groups.sum(axis=0)
        self._total += float(energies(out).sum())
        self._tokens += len(z)

    @property
    def mean(self) -> Floats:
        """f32[K]: of z."""
        return (self._zz[-1, :-1] / max(self._tokens, 1)).astype(np.float32)

    @property
    def regression(self) -> Floats:
        """R, f32[F, K + 1], as a profile keeps it."""
        solved = np.ascontiguousarray(self._solve(self._zz, self._za).T)
        solved[:, :-1] = quantised(solved[:, :-1])
        return solved

    @property
    def predictor(self) -> Floats:
        """W, f32[G, K + 1]."""
        return np.ascontiguousarray(self._solve(self._before, self._log).T)

    @property
    def energy(self) -> Floats:
        """f32[G]: means."""
        return (self._energy / max(self._tokens, 1)).astype(np.float32)

    @property
    def total(self) -> float:
        """The mean energy of the layer's output; above 0."""
        return max(self._total / max(self._tokens, 1), 1e-30)

    def state(self) -> list[NDArray[Any]]:
        """Everything that was added up, to go on from later."""
        sums = np.array([self._total, self._tokens], np.float64)
        return [self._zz, self._za, self._before, self._log, self._energy, sums]

    def restore(self, state: Sequence[NDArray[Any]]) -> None:
        """Go on from a `state` of the same layer."""
        *moments, sums = state
        for mine, saved in zip(self.state(), moments, strict=False):
            mine[:] = saved
        self._total, self._tokens = float(sums[0]), int(sums[1])

    def _solve(self, moments: NDArray[np.float64], targets: NDArray[Any]) -> Floats:
        ridge = RIDGE * max(self._tokens, 1) * np.eye(len(moments))
        solved = np.linalg.solve(moments + ridge, targets.astype(np.float64))
        return solved.astype(np.float32)


class SecondPass:
    """All layers. `excess`: f64[L, positions], by how many times typical energies were exceeded
    there, summed over pieces, and `outliers`: how often it was out of the ordinary."""

    def __init__(
        self, tapped: TappedModel, structure: Structure, group_size: int, positions: int
    ) -> None:
        self._tapped = tapped
        self._structure = structure
        n_layers, rank, _ = structure.bases.shape
        self.layers = [
            Moments(Grouped(structure.permutations[i], tapped.down(i), group_size), rank)
            for i in range(n_layers)
        ]
        self.outliers = np.zeros((n_layers, positions), np.int64)
        self.excess = np.zeros((n_layers, positions))
        self.pieces = 0
        self._before: tuple[Floats, NDArray[np.bool_]] | None = None

    def add(self, piece: Sequence[int]) -> None:
        """One more piece of text."""
        self._tapped.run(piece, look=self._look)
        self.pieces += 1

    def _look(self, at: int, positions: slice, x: Floats, activations: Floats, out: Floats) -> None:
        layer, typical = self.layers[at], float(self._structure.typical[at])
        energy = energies(out)
        usual = is_usual(energy, typical)
        self.outliers[at, positions] += ~usual
        self.excess[at, positions] += np.where(usual, 0, energy / max(typical, 1e-30))
        z = with_one(x, self._structure.bases[at])
        before, usual_before = (z, usual) if at == 0 or self._before is None else self._before
        rows = usual & usual_before
        permuted = layer.grouped.permuted(activations, rows)
        layer.add(z[rows], before[rows], permuted, out[rows])
        self._before = z, usual

    def state(self) -> dict[str, NDArray[Any]]:
        """Everything that was added up, to go on from later."""
        states = zip(*(layer.state() for layer in self.layers), strict=True)
        arrays = {f"moments{i}": np.stack(state) for i, state in enumerate(states)}
        return arrays | {
            "outliers": self.outliers,
            "excess": self.excess,
            "pieces": np.array(self.pieces),
        }

    def restore(self, arrays: dict[str, NDArray[Any]]) -> None:
        """Go on from a `state` of the same text."""
        n = len(self.layers[0].state())
        for i, layer in enumerate(self.layers):
            layer.restore([arrays[f"moments{j}"][i] for j in range(n)])
        self.outliers[:], self.excess[:] = arrays["outliers"], arrays["excess"]
        self.pieces = int(arrays["pieces"])


def with_one(x: Floats, basis: Floats) -> Floats:
    """[z, 1], f32[T, K + 1], of x, f32[T, H], and B, f32[K, H]."""
    z = np.ones((len(x), len(basis) + 1), np.float32)
    np.matmul(x, basis.T, out=z[:, :-1])
    return z

"""The sketch z = B x: what the root knows of a layer's input, for waiting, filling and learning.

It is computed by one more node of the root's own FFN graph, so that it costs no call from Python.
Here are the matrices for those nodes and the rows they write; what z is good for is said elsewhere.

B has the directions that matter in the text it was calibrated on. In other text others do, and on
64 numbers nothing can be learned of them. So surrogates that learn are given more: some values of
x themselves, less what z says of them, which cost nothing before they are asked for. (Python
source, a profile without any, 2k tokens learned from, then the same file: the fill repairs 25 % of
zero fill's KL from z alone, 35 % with 96 of 576 values.)
"""

from __future__ import annotations

from typing import Final

import ggml
import numpy as np
from numpy.typing import NDArray

from halo_edge.compute.context import aligned
from halo_edge.compute.ffn import Projection
from halo_edge.compute.rows import Rows
from halo_edge.compute.weights import Matrix
from halo_edge.groups.profile import Floats, Profile

# B is multiplied as f16: with the cache full of weights, one token takes a layer of 2048 values
# 5 us, in f32 35 us. It costs z a thousandth.
_LARGEST: Final = float(np.finfo(np.float16).max)

EXTENSION: Final = 96
"""So many values of x, if there are more."""


class Sketch:
    """The sketches of all layers, for steps of up to `max_tokens` tokens.

    `projections`: for `FfnGraphs` over the step's x; each run of a layer brings its z up to date.
    `extension`: how many values of x come after z in what `of` gives.
    """

    def __init__(self, profile: Profile, max_tokens: int, x: Floats | None = None) -> None:
        """`x`: the step's, f32[max_tokens, H], where surrogates learn; None: no extension."""
        self.rank = profile.rank
        self.n_layers = len(profile.layers)
        self.max_tokens = max_tokens
        self._z: NDArray[np.float32] = aligned(
            (len(profile.layers), max_tokens, self.rank), np.float32
        )
        self.projections = tuple(
            Projection(_matrix(layer.basis), Rows.f32(z))
            for layer, z in zip(profile.layers, self._z, strict=True)
        )

        self._x = x
        self.extension = 0
        if x is not None:
            hidden = x.shape[1]
            self.extension = min(EXTENSION, hidden)
            self._values = np.arange(self.extension) * hidden // self.extension
            self._known = [_known(layer.basis, self._values) for layer in profile.layers]

    def of(self, layer: int, tokens: int) -> Floats:
        """What surrogates of `layer` read, f32[tokens, K + extension], while x is that layer's: z,
        and the values of x that it does not tell of."""
        z = self._z[layer, :tokens]
        if self._x is None:
            return z
        rest = self._x[:tokens, self._values] - z @ self._known[layer]
        return np.concatenate([z, rest], axis=1)

    def first(self) -> Floats:
        """A copy of z of all layers for the step's first token, f32[L, K]."""
        return self._z[:, 0].copy()

    def before(self, layer: int, tokens: int) -> Floats:
        """The sketch that predicts the energies of `layer`: of the layer before, and for layer 0
        its own."""
        return self._z[max(layer - 1, 0), :tokens]


def _matrix(basis: Floats) -> Matrix:
    rows, columns = basis.shape
    values: NDArray[np.float16] = aligned((rows * columns,), np.float16)
    values[:] = np.clip(basis, -_LARGEST, _LARGEST).reshape(-1)
    return Matrix.whole(values.view(np.uint8), ggml.GGML_TYPE_F16, rows, columns)


def _known(basis: Floats, values: NDArray[np.intp]) -> Floats:
    """What z says of some values of x, f32[K, values]: the pseudo-inverse of B."""
    gram = basis.astype(np.float64) @ basis.T
    gram += np.eye(len(gram)) * (1e-6 * np.trace(gram) / len(gram) + 1e-30)
    known: Floats = np.linalg.solve(gram, basis[:, values]).astype(np.float32)
    return known

"""Where shards are cut from: the FFN of a model file, its neurons permuted by a profile or not.

Who gets which neurons, and where packed shards are kept, is none of this file's business.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from halo_edge.compute.ffn import FfnWeights
from halo_edge.compute.requantise import DownType, gather_columns
from halo_edge.compute.weights import Matrix
from halo_edge.model.fingerprint import fingerprint
from halo_edge.model.gguf_file import GgufFile

# A part of the name: raised when the same neurons are cut into other bytes than before.
PACKING_VERSION: Final = 1


class FfnSource:
    """The FFN of `gguf`, of which neuron i is the file's neuron `permutations[layer][i]`."""

    def __init__(
        self,
        gguf: GgufFile,
        permutations: Sequence[NDArray[np.int32]] | None = None,
        down: DownType = DownType.Q8_0,
    ) -> None:
        """`permutations`: i32[neurons] of each layer; None: as the file has them. `down`: what
        columns are quantised to where they cannot be taken as they are."""
        self.permutations = permutations
        self._gguf = gguf
        self._down = down
        digest = hashlib.sha256(repr((PACKING_VERSION, fingerprint(gguf), down.value)).encode())
        for permutation in permutations or ():
            digest.update(np.ascontiguousarray(permutation, "<i4").tobytes())
        self.name = digest.hexdigest()
        """Different for what is cut differently: of another model, permutation or type."""

    def whole(self, layer: int) -> FfnWeights:
        """All neurons of `layer` as the file has them, mapped."""
        return FfnWeights.from_gguf(self._gguf, layer)

    def mapped(self, layer: int, neurons: range) -> FfnWeights | None:
        """Consecutive `neurons` of `layer` as a part of the mapped file; None where they are not
        that: with a permutation, and where the range cuts a quantisation block of `down`."""
        whole = self.whole(layer)
        down = whole.down.column_range(neurons.start, neurons.stop)
        if self.permutations is not None or down is None:
            return None
        start, stop = neurons.start, neurons.stop
        return FfnWeights(whole.gate.row_range(start, stop), whole.up.row_range(start, stop), down)

    def cut(self, layer: int, neurons: range) -> FfnWeights:
        """The shard of consecutive `neurons` of `layer`. See `cuts`."""
        return self.cuts(layer, [neurons])[0]

    def cuts(self, layer: int, parts: Sequence[range]) -> list[FfnWeights]:
        """A shard for each of `parts`, ranges of one or more neurons.

        Without a permutation they are mapped, but for a `down` whose quantisation blocks the range
        cuts. With one they are packed copies: gate and up as they were, since blocks are parts of
        a neuron's row there, and `down` requantised, once through the matrix for all parts.
        """
        whole = self.whole(layer)
        if self.permutations is None:
            return [self._range(whole, part) for part in parts]
        permutation = self.permutations[layer].astype(np.intp)
        chosen = [permutation[part.start : part.stop] for part in parts]
        downs = gather_columns(whole.down, chosen, self._down)
        return [
            FfnWeights(_rows(whole.gate, neurons), _rows(whole.up, neurons), down)
            for neurons, down in zip(chosen, downs, strict=True)
        ]

    def _range(self, whole: FfnWeights, part: range) -> FfnWeights:
        down = whole.down.column_range(part.start, part.stop)
        if down is None:
            columns = np.arange(part.start, part.stop)
            down = gather_columns(whole.down, [columns], DownType.Q8_0)[0]
        return FfnWeights(
            whole.gate.row_range(part.start, part.stop),
            whole.up.row_range(part.start, part.stop),
            down,
        )


def _rows(matrix: Matrix, rows: NDArray[np.intp]) -> Matrix:
    data = matrix.bytes_2d()[rows].reshape(-1)
    return Matrix.whole(data, matrix.ggml_type, len(rows), matrix.columns)

"""A shard: the rows of gate and up and the columns of down that belong to some neurons of a layer.

`ffn_source` cuts it. To be sent it is packed: gate, up and down behind one another, each on a
boundary of `ALIGNMENT` bytes. What a worker gets is checked against its `ShardSpec`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from cryptography.hazmat.primitives.hashes import SHA256, Hash
from numpy.typing import NDArray

from halo_edge.compute.context import ALIGNMENT
from halo_edge.compute.ffn import FfnWeights
from halo_edge.compute.weights import Matrix
from halo_edge.model.gguf_file import WEIGHT_TYPES, tensor_nbytes


@dataclass(frozen=True)
class ShardSpec:
    """What a packed shard is: `neurons` of `width` inputs, and the ggml type of each matrix."""

    neurons: int
    width: int
    gate_type: int
    up_type: int
    down_type: int

    def matrices(self) -> tuple[tuple[int, int, int], ...]:
        """(ggml type, rows, columns) of gate, up and down."""
        return (
            (self.gate_type, self.neurons, self.width),
            (self.up_type, self.neurons, self.width),
            (self.down_type, self.width, self.neurons),
        )

    def offsets(self) -> list[int]:
        """Where gate, up and down begin, and where the shard ends, in bytes.

        Raises `ValueError` for sizes below 1, types that cannot be computed with, or a size that
        cuts a quantisation block.
        """
        if min(self.neurons, self.width) < 1:
            raise ValueError(f"a shard of {self.neurons} neurons of {self.width} inputs")
        bounds = [0]
        for ggml_type, rows, columns in self.matrices():
            if ggml_type not in WEIGHT_TYPES:
                raise ValueError(f"a shard of weights of type {ggml_type}")
            end = bounds[-1] + tensor_nbytes(ggml_type, (columns, rows))
            bounds.append(-(-end // ALIGNMENT) * ALIGNMENT)
        return bounds

    @property
    def nbytes(self) -> int:
        return self.offsets()[-1]

    def weights(self, packed: NDArray[np.uint8]) -> FfnWeights:
        """The matrices inside a packed shard, u8[nbytes]; views."""
        parts = []
        for (ggml_type, rows, columns), start in zip(self.matrices(), self.offsets(), strict=False):
            size = tensor_nbytes(ggml_type, (columns, rows))
            parts.append(Matrix.whole(packed[start : start + size], ggml_type, rows, columns))
        return FfnWeights(*parts)


def spec_of(weights: FfnWeights) -> ShardSpec:
    return ShardSpec(
        weights.gate.rows,
        weights.gate.columns,
        weights.gate.ggml_type,
        weights.up.ggml_type,
        weights.down.ggml_type,
    )


def pack(weights: FfnWeights) -> NDArray[np.uint8]:
    """The shard as one run of bytes, u8[spec.nbytes]."""
    spec = spec_of(weights)
    packed = np.zeros(spec.nbytes, np.uint8)
    matrices = (weights.gate, weights.up, weights.down)
    for matrix, start in zip(matrices, spec.offsets(), strict=False):
        rows = matrix.bytes_2d()
        packed[start : start + rows.size].reshape(rows.shape)[:] = rows
    return packed


class ContentHash:
    """sha256 of a packed shard, piece by piece; in hexadecimal its name in every cache.

    Not hashlib's: that loads a second OpenSSL, 3 MB of a worker's memory.
    """

    def __init__(self) -> None:
        self._hash = Hash(SHA256())

    def update(self, data: bytes | memoryview) -> None:
        self._hash.update(data)

    def hexdigest(self) -> str:
        """Of everything so far; ends the hash."""
        return self._hash.finalize().hex()


def content_hash(packed: NDArray[np.uint8]) -> str:
    """The `ContentHash` of all of a shard."""
    digest = ContentHash()
    digest.update(packed.data)
    return digest.hexdigest()

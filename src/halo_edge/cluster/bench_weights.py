"""Weights to be multiplied with when nothing but the time counts.

Any type that can be computed with, made as fast as memory is written. Each matrix has a mapping of
its own, so that its pages are given back when it has been repacked, as those of a shard's file are.
"""

from __future__ import annotations

import mmap
from typing import Final

import numpy as np
from numpy.typing import NDArray

from halo_edge.compute.ffn import FfnWeights
from halo_edge.compute.weights import Matrix
from halo_edge.groups.shard import ShardSpec
from halo_edge.model.gguf_file import tensor_nbytes

# Two bytes of these, wherever a block's scale lies, are 0.1 to 2 in half precision: neither zero
# nor subnormal nor infinite, which some processors compute at another speed.
_LOWEST_BYTE: Final = 0x30
_HIGHEST_BYTE: Final = 0x3F
_PATTERN_BYTES: Final = 1 << 16


def bench_weights(spec: ShardSpec) -> FfnWeights:
    """Always the same ones, in memory of their own. Raises ValueError for what is no shard."""
    spec.offsets()  # it checks
    pattern = np.random.default_rng(0).integers(
        _LOWEST_BYTE, _HIGHEST_BYTE + 1, _PATTERN_BYTES, np.uint8
    )
    return FfnWeights(*(_matrix(pattern, *matrix) for matrix in spec.matrices()))


def _matrix(pattern: NDArray[np.uint8], ggml_type: int, rows: int, columns: int) -> Matrix:
    size = tensor_nbytes(ggml_type, (columns, rows))
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    data: NDArray[np.uint8] = np.ndarray(size, np.uint8, memory)
    for start in range(0, size, _PATTERN_BYTES):
        data[start : start + _PATTERN_BYTES] = pattern[: size - start]
    return Matrix.whole(data, ggml_type, rows, columns)

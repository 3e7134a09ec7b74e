"""A worker's fill: the matrices C_d = D_d R_d of all layers, made once and held until fetched.

R_d, the profile's regression for the worker's neurons, comes as a file like a shard.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from halo_edge.cluster.shard_cache import PIECE_BYTES
from halo_edge.compute.ffn import LayerWeights
from halo_edge.compute.joined import Along, joined
from halo_edge.compute.mapped import drop_mapped_pages
from halo_edge.compute.product import multiply
from halo_edge.compute.runtime import Runtime
from halo_edge.errors import HaloError

# A model of 80 layers and 8192 values has 85 MB with a sketch of 64.
MAX_FILL_BYTES: Final = 1 << 28
_F16_MAX: Final = 65504.0


def regression_nbytes(weights: Sequence[LayerWeights], columns: int) -> int:
    """The size of what goes with a worker's shards."""
    return 2 * columns * sum(tile.gate.rows for tiles in weights for tile in tiles)


def compute_fills(
    runtime: Runtime,
    weights: Sequence[LayerWeights],
    regression: NDArray[np.uint8],
    columns: int,
    width: int,
) -> NDArray[np.uint8]:
    """C_d as it travels: f16[L, width, columns]; zeros for layers without a shard.

    Raises `HaloError` for more than any model needs.
    """
    if 2 * len(weights) * width * columns > MAX_FILL_BYTES:
        raise HaloError(f"a fill of {len(weights)} x {width} x {columns} values is too large")
    fills = np.zeros((len(weights), width, columns), np.float16)
    values, start = regression.view(np.float16), 0
    for fill, tiles in zip(fills, weights, strict=True):
        if tiles:
            down = joined([tile.down for tile in tiles], Along.COLUMNS)
            stop = start + columns * down.columns
            vectors = values[start:stop].reshape(columns, -1).astype(np.float32)
            fill[:] = as_f16(multiply(runtime, down, vectors).T)
            for tile in tiles:
                drop_mapped_pages(tile.down.data)
            start = stop
    return fills.reshape(-1).view(np.uint8)


class HeldFill:
    """What `compute_fills` made, until the last of it is handed out. Any thread may ask."""

    def __init__(self, fills: NDArray[np.uint8] | None) -> None:
        self._fills = fills
        self._lock = threading.Lock()

    def piece(self, start: int, stop: int) -> bytes:
        """Raises `HaloError` where there is none, or it was fetched."""
        with self._lock:
            fills = self._fills
            if fills is None:
                raise HaloError("there is no fill, or it was fetched already")
            stop = min(stop, start + PIECE_BYTES)
            if stop >= fills.nbytes:
                self._fills = None
            return fills[start:stop].tobytes()


def as_f16(values: NDArray[np.float32]) -> NDArray[np.float16]:
    """Without infinities: what is out of range is as large as it can be."""
    return np.clip(values, -_F16_MAX, _F16_MAX).astype(np.float16)

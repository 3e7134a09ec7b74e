"""The KV cache: keys and values of every token seen, f16, one cell per token.

A cell belongs to no position and no sequence; who may look at it is said by the mask.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from halo_edge.compute.context import aligned

# Attention graphs exist for these numbers of cells (doubled as needed): masked cells cost little
# (flash attention skips them), and every bucket costs a set of graphs.
SMALLEST_BUCKET: Final = 256


class KvCache:
    """Keys and values, each f16[cells, kv_heads * head_dim] per layer. Pages come with use."""

    def __init__(self, n_layers: int, cells: int, width: int) -> None:
        self.cells = -(-cells // SMALLEST_BUCKET) * SMALLEST_BUCKET
        self.keys = [self._storage(width) for _ in range(n_layers)]
        self.values = [self._storage(width) for _ in range(n_layers)]

    def _storage(self, width: int) -> NDArray[Any]:
        return aligned((self.cells, width), np.float16)

    def copy(self, source: Sequence[int], to: Sequence[int]) -> None:
        """Let the cells `to` hold what the cells `source` hold."""
        for storage in (*self.keys, *self.values):
            storage[to] = storage[source]

    def bucket(self, used: int) -> int:
        """The smallest number of cells >= `used` for which attention graphs are built."""
        size = SMALLEST_BUCKET
        while size < used:
            size *= 2
        return min(size, self.cells)

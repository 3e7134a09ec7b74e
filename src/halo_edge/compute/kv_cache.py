"""The KV cache: keys and values of every token seen, f16, one cell per token.

A cell belongs to no position and no sequence; who may look at it is said by the mask.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from halo_edge.compute.context import aligned

# Windows are so many cells long, or several times that: as sequences grow, graphs are told of
# another window now and then, not in every step.
WINDOW_STEP: Final = 32


class KvCache:
    """Keys and values, each f16[cells, kv_heads * head_dim] per layer. Pages come with use."""

    def __init__(self, n_layers: int, cells: int, width: int) -> None:
        self.cells = -(-cells // WINDOW_STEP) * WINDOW_STEP
        self.row_bytes = 2 * width
        self.keys = [self._storage(width) for _ in range(n_layers)]
        self.values = [self._storage(width) for _ in range(n_layers)]

    def _storage(self, width: int) -> NDArray[Any]:
        return aligned((self.cells, width), np.float16)

    def copy(self, source: Sequence[int], to: Sequence[int]) -> None:
        """Let the cells `to` hold what the cells `source` hold."""
        for storage in (*self.keys, *self.values):
            storage[to] = storage[source]

    def window(self, span: range) -> range:
        """The cells to look at so that all of `span` are."""
        length = -(-len(span) // WINDOW_STEP) * WINDOW_STEP
        start = min(span.start, self.cells - length)
        return range(start, start + length)

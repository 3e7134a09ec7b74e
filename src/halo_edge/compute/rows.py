"""Rows of vectors somewhere in memory, as numbers or encoded for the wire, for graphs.

A graph converts what it reads and writes itself: one more node costs less than a call from Python.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import ggml
import numpy as np
from numpy.typing import NDArray

from halo_edge.compute.context import GraphContext, Tensor


@dataclass(frozen=True, eq=False)
class Rows:
    """`data` holds rows of `width` values of a ggml type, one behind the other."""

    ggml_type: int
    width: int
    data: NDArray[Any]

    @classmethod
    def f32(cls, values: NDArray[np.float32]) -> Rows:
        """`values`: f32[rows, width]."""
        return cls(ggml.GGML_TYPE_F32, values.shape[1], values)

    @property
    def max_rows(self) -> int:
        return int(self.data.nbytes // ggml.ggml_row_size(self.ggml_type, self.width))

    def read(self, context: GraphContext, tokens: int) -> Tensor:
        """The first `tokens` rows, as f32."""
        rows = context.external(self.ggml_type, (self.width, tokens), self.data)
        if self.ggml_type == ggml.GGML_TYPE_F32:
            return rows
        return ggml.ggml_cast(context.ctx, rows, ggml.GGML_TYPE_F32)

    def write(self, context: GraphContext, result: Tensor, tokens: int) -> None:
        """Let the graph write `result`, f32, into the first `tokens` rows."""
        if self.ggml_type == ggml.GGML_TYPE_F32:
            context.store(result, self.data)
            return
        self.copy(context, result, tokens)

    def copy(self, context: GraphContext, rows: Tensor, tokens: int) -> None:
        """As `write`, for `rows` that the graph only reads: they stay where they are."""
        to = context.external(self.ggml_type, (self.width, tokens), self.data)
        context.expand(ggml.ggml_cpy(context.ctx, rows, to))

    def clear(self, tokens: int) -> None:
        """Make the first `tokens` rows zero (all formats encode it as zero bytes)."""
        nbytes = ggml.ggml_row_size(self.ggml_type, self.width) * tokens
        self.data.reshape(-1).view(np.uint8)[:nbytes] = 0

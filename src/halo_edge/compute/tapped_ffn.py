"""A layer's FFN in two halves, so that its activations can be looked at, and changed, in between.

For calibration; the hot path computes both at once (`ffn.py`).
"""

from __future__ import annotations

import ctypes
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import ggml
import numpy as np
from numpy.typing import NDArray

from halo_edge.compute.context import GraphContext, aligned
from halo_edge.compute.ffn import MAX_GRAPH_SETS, FfnWeights
from halo_edge.compute.rows import Rows
from halo_edge.compute.runtime import Arena, Graph, Runtime
from halo_edge.compute.weights import Matrix

_RowFunction = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)


class TappedFfn:
    """`weights` of all layers. `activations`: f32[max_tokens, F], between the halves."""

    def __init__(
        self,
        runtime: Runtime,
        weights: Sequence[FfnWeights],
        x: NDArray[np.float32],
        out: NDArray[np.float32],
    ) -> None:
        """`x`, `out`: f32[max_tokens, H]."""
        self._runtime = runtime
        self._weights = weights
        self._x, self._out = Rows.f32(x), Rows.f32(out)
        self.activations: NDArray[np.float32] = aligned((len(x), weights[0].gate.rows), np.float32)
        self._sets: OrderedDict[int, list[tuple[Graph, Graph]]] = OrderedDict()

    def activate(self, layer: int, tokens: int) -> None:
        """The first `tokens` rows of `activations` from those of x."""
        self._graphs(tokens)[layer][0]()

    def project(self, layer: int, tokens: int) -> None:
        """The first `tokens` rows of `out` from those of `activations`."""
        self._graphs(tokens)[layer][1]()

    def _graphs(self, tokens: int) -> list[tuple[Graph, Graph]]:
        graphs = self._sets.get(tokens)
        if graphs is None:
            first, second = Arena(), Arena()
            graphs = self._sets[tokens] = [
                (self._activate(weights, tokens, first), self._project(weights, tokens, second))
                for weights in self._weights
            ]
            if len(self._sets) > MAX_GRAPH_SETS:
                self._sets.popitem(last=False)
        self._sets.move_to_end(tokens)
        return graphs

    def _activate(self, weights: FfnWeights, tokens: int, arena: Arena) -> Graph:
        c, multiply = GraphContext(nodes=16), self._runtime.weights.multiply
        x = self._x.read(c, tokens)
        gate, up = multiply(c, weights.gate, x), multiply(c, weights.up, x)
        c.store(ggml.ggml_swiglu_split(c.ctx, gate, up), self.activations)
        return Graph(self._runtime, c, arena)

    def _project(self, weights: FfnWeights, tokens: int, arena: Arena) -> Graph:
        c = GraphContext(nodes=16)
        activations = Rows.f32(self.activations).read(c, tokens)
        c.store(self._runtime.weights.multiply(c, weights.down, activations), self._out.data)
        return Graph(self._runtime, c, arena)


def dequantised(matrix: Matrix) -> NDArray[np.float32]:
    """A whole matrix as numbers, f32[rows, columns]."""
    ggml.ggml_cpu_init()  # the tables of half precision, on CPUs that need them
    rows: NDArray[Any] = np.ascontiguousarray(matrix.bytes_2d())
    if matrix.ggml_type == ggml.GGML_TYPE_F32:
        return rows.view(np.float32).reshape(matrix.rows, matrix.columns)
    values = np.empty((matrix.rows, matrix.columns), np.float32)
    decode = ggml.ggml_get_type_traits(matrix.ggml_type).contents.to_float
    address = ctypes.cast(decode, ctypes.c_void_p).value or 0
    _RowFunction(address)(rows.ctypes.data, values.ctypes.data, values.size)
    return values

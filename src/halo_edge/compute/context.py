"""Where a ggml graph is declared: its tensors, over memory that is somebody else's.

Inputs and outputs are numpy arrays that the graph reads and writes in place ("external" tensors),
so nothing is copied in or out.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any, Final, TypeAlias

import ggml
import numpy as np
from numpy.typing import NDArray

# ggml's pointers are opaque to Python.
Tensor: TypeAlias = Any

ALIGNMENT: Final = 64  # bytes; what ggml's widest vector loads want


def aligned(shape: Sequence[int], dtype: Any) -> NDArray[Any]:
    """A zeroed array whose data starts on an `ALIGNMENT` boundary. Its pages are made on first
    use.
    """
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    raw = np.zeros(size + ALIGNMENT, np.uint8)
    start = -raw.ctypes.data % ALIGNMENT
    array: NDArray[Any] = raw[start : start + size].view(dtype).reshape(shape)
    return array


class GraphContext:
    """Where a graph's tensors are declared: a ggml context without memory for their data.

    `nodes` bounds the number of tensors. Arrays given to `external` are kept alive with it.
    """

    def __init__(self, nodes: int = 64) -> None:
        size = nodes * ggml.ggml_tensor_overhead() + ggml.ggml_graph_overhead_custom(nodes, False)
        self.ctx = ggml.ggml_init(ggml.ggml_init_params(size, None, True))
        if not self.ctx:
            raise MemoryError("ggml_init")
        self.cgraph = ggml.ggml_new_graph_custom(self.ctx, nodes, False)
        self._keep: list[object] = []

    def external(self, ggml_type: int, shape: Sequence[int], data: NDArray[Any]) -> Tensor:
        """A tensor over `data` (contiguous). `shape` is in ggml's order, contiguous dimension
        first.
        """
        sizes = (ctypes.c_int64 * len(shape))(*shape)
        tensor = ggml.ggml_new_tensor(self.ctx, ggml_type, len(shape), sizes)
        if ggml.ggml_nbytes(tensor) > data.nbytes:
            raise ValueError(f"tensor {tuple(shape)} does not fit into {data.nbytes} bytes")
        tensor.contents.data = data.ctypes.data
        self._keep.append(data)
        return tensor

    def store(self, tensor: Tensor, data: NDArray[Any]) -> Tensor:
        """Let a computed `tensor` write its result into `data`, and compute it."""
        if ggml.ggml_nbytes(tensor) > data.nbytes:
            raise ValueError("result does not fit")
        tensor.contents.data = data.ctypes.data
        self._keep.append(data)
        self.expand(tensor)
        return tensor

    def keep(self, owner: object) -> None:
        """Keep alive what owns the data of a tensor."""
        self._keep.append(owner)

    def expand(self, tensor: Tensor) -> None:
        """Compute `tensor` after everything that was expanded before."""
        ggml.ggml_build_forward_expand(self.cgraph, tensor)

    def __del__(self) -> None:
        if getattr(self, "ctx", None):
            ggml.ggml_free(self.ctx)
            self.ctx = None

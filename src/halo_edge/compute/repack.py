"""Weights as this CPU multiplies them fastest: their rows interleaved, where ggml knows how.

ggml has a buffer type for such copies, with kernels of its own. Which weights it takes depends on
their type and shape and on the CPU, and only trying tells. The others stay where they lie, but for
those whose rows lie apart; where nothing is to be repacked, these too.
"""

from __future__ import annotations

import ctypes
import itertools
import threading
from collections.abc import Callable
from typing import Any, Final

import ggml
import numpy as np
from numpy.typing import NDArray

from halo_edge.compute.context import GraphContext, Tensor
from halo_edge.compute.joined import Joined, Weights
from halo_edge.compute.mapped import drop_mapped_pages
from halo_edge.compute.weights import Matrix

_EXTRA_BUFFER_TYPES: Final = b"ggml_backend_dev_get_extra_bufts"
_REPACK: Final = b"CPU_REPACK"


class _Repacked:
    """One matrix in a buffer of its own. Raises MemoryError."""

    def __init__(self, buffer_type: Any, matrix: Weights) -> None:
        overhead = ggml.ggml_tensor_overhead()
        self._context = ggml.ggml_init(ggml.ggml_init_params(overhead, None, True))
        self.tensor = ggml.ggml_new_tensor_2d(
            self._context, matrix.ggml_type, matrix.columns, matrix.rows
        )
        size = ggml.ggml_backend_buft_get_alloc_size(buffer_type, self.tensor)
        self._buffer = ggml.ggml_backend_buft_alloc_buffer(buffer_type, size)
        if not self._buffer:
            raise MemoryError(f"{size} bytes for repacked weights")
        base = ggml.ggml_backend_buffer_get_base(self._buffer)
        ggml.ggml_backend_tensor_alloc(self._buffer, self.tensor, base)

    @property
    def has_kernel(self) -> bool:
        """Whether this CPU has one for the type and shape."""
        return bool(self.tensor.contents.extra)

    def fill(self, rows: NDArray[np.uint8]) -> None:
        data = np.ascontiguousarray(rows)
        ggml.ggml_backend_tensor_set(self.tensor, data.ctypes.data, 0, data.nbytes)

    def __del__(self) -> None:
        if getattr(self, "_buffer", None):
            ggml.ggml_backend_buffer_free(self._buffer)
        ggml.ggml_free(self._context)


class _Placed:
    """One matrix as it is multiplied, once somebody has asked for it. With its `source`: while that
    lives, no other matrix has its address."""

    def __init__(self, source: Weights) -> None:
        self._source = source
        self._lock = threading.Lock()
        self._found: _Repacked | Matrix | None = None

    def get(self, make: Callable[[Weights], _Repacked | Matrix]) -> _Repacked | Matrix:
        with self._lock:
            if self._found is None:
                self._found = make(self._source)
            return self._found


class WeightStore:
    """The matrices that the graphs of one model, or of a worker's shards, multiply with.

    Repacks each when a graph first asks for it. With `repack` false everything stays in place. With
    `joins` false the tiles of a shard are repacked one by one, so that they can come and go: decode
    is as fast, a prompt's FFN some 5 % slower.
    """

    def __init__(self, *, repack: bool = True, joins: bool = True) -> None:
        self.joins = joins
        self._in_place = not repack
        self._buffer_type = _repacking_buffer_type() if repack else None
        self._placed: dict[tuple[int, ...], _Placed] = {}

    def multiply(self, context: GraphContext, matrix: Weights, x: Tensor) -> Tensor:
        """matrix x, for `x` of ne = [columns, n]: ne = [rows, n]."""
        if isinstance(matrix, Joined) and (self._in_place or not matrix.one_type):
            pieces = matrix.parts if self._in_place else matrix.by_type()
            return matrix.product(
                context, pieces, x, lambda piece, of_x: self.multiply(context, piece, of_x)
            )
        return ggml.ggml_mul_mat(context.ctx, self._tensor(context, matrix), x)

    def place(self, matrix: Weights) -> _Repacked | Matrix:
        """Repack it, if it has not been. Any thread may; if one does already, it is waited for."""
        found = self._placed.get(matrix.key)
        if found is None:
            found = self._placed.setdefault(matrix.key, _Placed(matrix))
        return found.get(self._made)

    def forget(self, matrix: Weights) -> None:
        """Let it go with the graphs that use it."""
        self._placed.pop(matrix.key, None)

    def _tensor(self, context: GraphContext, matrix: Weights) -> Tensor:
        placed = self.place(matrix)
        if isinstance(placed, Matrix):
            return placed.tensor(context)
        context.keep(placed)
        tensor = ggml.ggml_new_tensor_2d(context.ctx, matrix.ggml_type, matrix.columns, matrix.rows)
        for field in ("data", "buffer", "extra"):
            setattr(tensor.contents, field, getattr(placed.tensor.contents, field))
        return tensor

    def _made(self, source: Weights) -> _Repacked | Matrix:
        if self._in_place and isinstance(source, Matrix):
            return source
        return self._repacked(source) or _contiguous(source)

    def _repacked(self, matrix: Weights) -> _Repacked | None:
        if self._buffer_type is None:
            return None
        repacked = _Repacked(self._buffer_type, matrix)
        if not repacked.has_kernel:
            return None
        repacked.fill(matrix.bytes_2d())
        _drop_pages(matrix)
        return repacked


def _contiguous(matrix: Weights) -> Matrix:
    placed = matrix.contiguous()
    if placed is not matrix:
        _drop_pages(matrix)
    return placed


def _drop_pages(matrix: Weights) -> None:
    for data in matrix.stored:
        drop_mapped_pages(data)


def _repacking_buffer_type() -> Any | None:
    """The CPU backend's; None where it was built without."""
    cpu = ggml.ggml_backend_dev_by_type(ggml.GGML_BACKEND_DEVICE_TYPE_CPU)
    registry = ggml.ggml_backend_dev_backend_reg(cpu)
    address = ggml.ggml_backend_reg_get_proc_address(registry, _EXTRA_BUFFER_TYPES)
    if not address:
        return None
    function = ctypes.CFUNCTYPE(ctypes.POINTER(ctypes.c_void_p), ctypes.c_void_p)(address)
    for buffer_type in itertools.takewhile(bool, function(cpu)):  # ends with a null pointer
        if ggml.ggml_backend_buft_name(buffer_type) == _REPACK:
            return buffer_type
    return None

"""Runs static ggml graphs on the CPU: memory planning, threads and the call itself.

A graph is built once, with every tensor's address fixed, and then run any number of times; a run
is one C call and allocates nothing. Inputs and outputs are numpy arrays that the graph reads and
writes in place ("external" tensors), so nothing is copied in or out. What a graph computes is none
of this file's business.
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
        self._keep: list[NDArray[Any]] = []

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

    def expand(self, tensor: Tensor) -> None:
        """Compute `tensor` after everything that was expanded before."""
        ggml.ggml_build_forward_expand(self.cgraph, tensor)

    def __del__(self) -> None:
        if getattr(self, "ctx", None):
            ggml.ggml_free(self.ctx)
            self.ctx = None


class Arena:
    """Memory for the intermediate tensors of graphs of one shape.

    Graphs that never run at the same time share it. It must be large enough for each from the
    first: a later, larger graph would move it from under the earlier ones.
    """

    def __init__(self) -> None:
        # Not ggml_backend_cpu_buffer_type(): ggml-python 0.0.45 cuts its pointer to 32 bits.
        cpu = ggml.ggml_backend_dev_by_type(ggml.GGML_BACKEND_DEVICE_TYPE_CPU)
        self._allocator = ggml.ggml_gallocr_new(ggml.ggml_backend_dev_buffer_type(cpu))
        self._size: int | None = None

    def place(self, context: GraphContext) -> None:
        """Fix the address of every intermediate tensor of `context`'s graph."""
        if not ggml.ggml_gallocr_alloc_graph(self._allocator, context.cgraph):
            raise MemoryError("no memory for a compute graph")
        size = ggml.ggml_gallocr_get_buffer_size(self._allocator, 0)
        if self._size is not None and size > self._size:
            raise RuntimeError("graphs of different shapes must not share an arena")
        self._size = size

    def __del__(self) -> None:
        if getattr(self, "_allocator", None):
            ggml.ggml_gallocr_free(self._allocator)
            self._allocator = None


class Graph:
    """A finished graph. Calling it computes it."""

    def __init__(self, runtime: Runtime, context: GraphContext, arena: Arena) -> None:
        arena.place(context)
        self._keep = (runtime, context, arena)
        self._plan = ggml.ggml_graph_plan(context.cgraph, runtime.threads, runtime.pool)
        if self._plan.work_size:
            work = runtime.work_buffer(self._plan.work_size)
            self._plan.work_data = work.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8))
            self._work = work
        self._cgraph = context.cgraph
        self._plan_pointer = ctypes.pointer(self._plan)
        self._compute = ggml.ggml_graph_compute

    def __call__(self) -> None:
        status = self._compute(self._cgraph, self._plan_pointer)
        if status != ggml.GGML_STATUS_SUCCESS:
            raise RuntimeError(f"ggml_graph_compute failed with status {status}")


class Runtime:
    """What all graphs of one process share: the number of threads and a work buffer."""

    def __init__(self, threads: int) -> None:
        if threads < 1:
            raise ValueError("threads must be at least 1")
        ggml.ggml_cpu_init()
        self.threads = threads
        # Without one, every graph call would make and destroy its own.
        params = ggml.ggml_threadpool_params_default(threads)
        params.poll = 0  # sleep, do not spin, between graphs
        self.pool = ggml.ggml_threadpool_new(ctypes.byref(params))
        if not self.pool:
            raise MemoryError("ggml_threadpool_new")
        self._work = np.empty(0, np.uint8)

    def work_buffer(self, size: int) -> NDArray[np.uint8]:
        """A scratch buffer of at least `size` bytes; graphs run one at a time, so they share it.

        A graph keeps the buffer it was given, so growing (by doubling) does not disturb it.
        """
        if self._work.nbytes < size:
            self._work = aligned((max(size, 2 * self._work.nbytes),), np.uint8)
        return self._work

    def __del__(self) -> None:
        if getattr(self, "pool", None):
            ggml.ggml_threadpool_free(self.pool)
            self.pool = None

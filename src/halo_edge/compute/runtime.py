"""Runs static ggml graphs on the CPU: memory planning, threads and the call itself.

A graph is built once, with every tensor's address fixed, and then run any number of times; a run
is one C call and allocates nothing. What a graph computes is none of this file's business.
"""

from __future__ import annotations

import ctypes
import sys
from typing import Final

import ggml
import numpy as np
from numpy.typing import NDArray

from halo_edge.compute.context import GraphContext, aligned
from halo_edge.compute.repack import WeightStore


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


def _log_errors(level: int, text: bytes, _: object) -> None:
    """ggml would tell standard error of every matrix it repacks."""
    if level >= ggml.GGML_LOG_LEVEL_ERROR:
        print(text.decode(errors="replace"), end="", file=sys.stderr)


_LOG: Final = ggml.ggml_log_callback(_log_errors)  # as long as ggml has it, it must live


class _Threads:
    """ggml's compute threads. Without a pool, every graph call would make and destroy its own."""

    def __init__(self, number: int) -> None:
        params = ggml.ggml_threadpool_params_default(number)
        params.poll = 0  # sleep, do not spin, between graphs
        self.pool = ggml.ggml_threadpool_new(ctypes.byref(params))
        if not self.pool:
            raise MemoryError("ggml_threadpool_new")

    def __del__(self) -> None:
        if getattr(self, "pool", None):
            ggml.ggml_threadpool_free(self.pool)
            self.pool = None


class Runtime:
    """What all graphs of one model share: threads, a work buffer, and repacked weights."""

    def __init__(
        self,
        threads: int,
        *,
        repack: bool = True,
        joins: bool = True,
        shared: _Threads | None = None,
    ) -> None:
        """`repack`, `joins`: see `WeightStore`."""
        if threads < 1:
            raise ValueError("threads must be at least 1")
        ggml.ggml_log_set(_LOG, None)
        ggml.ggml_cpu_init()
        self.threads = threads
        self.weights = WeightStore(repack=repack, joins=joins)
        self._threads = shared or _Threads(threads)
        self.pool = self._threads.pool
        self._work = np.empty(0, np.uint8)

    def in_place(self) -> Runtime:
        """Another with the same threads, whose weights stay where they lie. The graphs of both
        must not run at the same time."""
        return Runtime(self.threads, repack=False, shared=self._threads)

    def for_other_weights(self) -> Runtime:
        """Another with the same threads, whose repacked weights go when it goes. The graphs of both
        must not run at the same time."""
        return Runtime(self.threads, shared=self._threads)

    def piecewise(self) -> Runtime:
        """Another with the same threads, whose weights are repacked tile by tile, as a worker's
        are. The graphs of both must not run at the same time."""
        return Runtime(self.threads, joins=False, shared=self._threads)

    def work_buffer(self, size: int) -> NDArray[np.uint8]:
        """A scratch buffer of at least `size` bytes; graphs run one at a time, so they share it.

        A graph keeps the buffer it was given, so growing (by doubling) does not disturb it.
        """
        if self._work.nbytes < size:
            self._work = aligned((max(size, 2 * self._work.nbytes),), np.uint8)
        return self._work

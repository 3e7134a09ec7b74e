"""Graphs run in place, share memory as they are told to, and do not burn cores while they wait."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import ggml
import numpy as np
import pytest
from numpy.typing import NDArray

from halo_edge.compute.context import ALIGNMENT, GraphContext, aligned
from halo_edge.compute.runtime import Arena, Graph, Runtime


def doubling(
    runtime: Runtime, data: NDArray[np.float32], out: NDArray[np.float32], arena: Arena
) -> Graph:
    """out = 2 (2 data), with one intermediate."""
    c = GraphContext()
    inp = c.external(ggml.GGML_TYPE_F32, (data.size,), data)
    c.store(ggml.ggml_scale(c.ctx, ggml.ggml_scale(c.ctx, inp, 2.0), 2.0), out)
    return Graph(runtime, c, arena)


@pytest.mark.parametrize("shape", [(1,), (3, 5), (1000, 7)])
@pytest.mark.parametrize("dtype", [np.uint8, np.float16, np.float32, np.int64])
def test_aligned(shape: tuple[int, ...], dtype: Any) -> None:
    array = aligned(shape, dtype)
    assert array.shape == shape
    assert array.dtype == dtype
    assert array.flags.c_contiguous
    assert array.flags.writeable
    assert not array.any()
    assert array.ctypes.data % ALIGNMENT == 0


def test_graphs_read_and_write_arrays_in_place_again_and_again() -> None:
    data, out = aligned((8,), np.float32), aligned((8,), np.float32)
    graph = doubling(Runtime(1), data, out, Arena())
    for value in (1, -3):
        data[:] = value
        graph()
        assert (out == 4 * value).all()


def test_graphs_keep_what_they_use() -> None:
    """The arrays, arena and context of a graph are nobody else's."""
    results = []
    for value in range(20):
        data, out = np.full(5000, value, np.float32), np.zeros(5000, np.float32)
        results.append((doubling(Runtime(1), data, out, Arena()), out))
        del data
    for value, (graph, out) in enumerate(results):
        graph()
        assert (out == 4 * value).all()


def test_graphs_of_one_shape_share_an_arena() -> None:
    arena, runtime = Arena(), Runtime(1)
    pairs = [(np.full(64, i, np.float32), np.zeros(64, np.float32)) for i in range(3)]
    graphs = [doubling(runtime, data, out, arena) for data, out in pairs]
    for i in (2, 0, 1, 0):
        graphs[i]()
        assert (pairs[i][1] == 4 * i).all()


def test_larger_graph_may_not_join_an_arena() -> None:
    arena = Arena()
    small, large = np.zeros(64, np.float32), np.zeros(1 << 16, np.float32)
    doubling(Runtime(1), small, small.copy(), arena)
    with pytest.raises(RuntimeError, match="must not share"):
        doubling(Runtime(1), large, large.copy(), arena)


def test_array_too_small_for_its_tensor() -> None:
    c = GraphContext()
    with pytest.raises(ValueError, match=r"\(8, 4\) does not fit into 124 bytes"):
        c.external(ggml.GGML_TYPE_F32, (8, 4), np.zeros(31, np.float32))
    inp = c.external(ggml.GGML_TYPE_F32, (8, 4), np.zeros(32, np.float32))
    with pytest.raises(ValueError, match="result does not fit"):
        c.store(ggml.ggml_scale(c.ctx, inp, 2.0), np.zeros(31, np.float32))


def test_work_buffer_grows_without_moving_what_was_given() -> None:
    runtime = Runtime(1)
    first = runtime.work_buffer(100)
    first[:] = 1
    second = runtime.work_buffer(1000)
    assert first.nbytes >= 100
    assert second.nbytes >= 1000
    assert not np.shares_memory(first, second)
    assert runtime.work_buffer(50) is second


@pytest.mark.parametrize("threads", [0, -1])
def test_threads_must_be_positive(threads: int) -> None:
    with pytest.raises(ValueError, match="threads"):
        Runtime(threads)


def test_number_of_threads_does_not_change_the_result(tiny_model: Path, open_model: Any) -> None:
    tokens = [int(t) for t in np.random.default_rng(2).integers(0, 512, 30)]
    one, two = (open_model(tiny_model, threads=n) for n in (1, 2))
    np.testing.assert_allclose(two.fresh(tokens), one.fresh(tokens), atol=1e-4)


WAITING = """
import sys, time
from halo_edge.model.gguf_file import GgufFile  # which imports ggml, and long before compute is
import ggml, numpy as np
from halo_edge.compute.context import GraphContext
from halo_edge.compute.runtime import Arena, Graph, Runtime
c = GraphContext()
a, out = np.ones((512, 512), np.float32), np.ones((512, 512), np.float32)
tensors = [c.external(ggml.GGML_TYPE_F32, (512, 512), a) for _ in range(2)]
c.store(ggml.ggml_mul_mat(c.ctx, *tensors), out)
graph = Graph(Runtime(2), c, Arena())
process, thread = time.process_time(), time.thread_time()
graph()
helped = (time.process_time() - process) - (time.thread_time() - thread)
process, thread = time.process_time(), time.thread_time()
while time.thread_time() < thread + 0.05:
    pass
others = (time.process_time() - process) - (time.thread_time() - thread)
print(helped, others)
"""


def test_waiting_threads_do_not_spin() -> None:
    """After a graph on two threads, only the main thread uses the CPU.

    It is kept busy for 50 ms, and the process must not have used much more than it did. How long
    exactly the other thread spins (0.3 ms; 4 to 8 by default) is noise on a busy machine, so that
    our setting came in time is read from what OpenMP says of itself when it is loaded.
    """
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("OMP_", "GOMP_"))}
    environment["OPENBLAS_NUM_THREADS"] = (
        "1"  # numpy's own threads spin for a while when they start
    )
    environment["OMP_DISPLAY_ENV"] = "verbose"
    result = subprocess.run(
        [sys.executable, "-c", WAITING], env=environment, capture_output=True, text=True, check=True
    )
    helped, others = map(float, result.stdout.split())
    assert helped > 0.001  # there is a second thread
    assert others < 0.025
    assert "OMP_WAIT_POLICY = 'PASSIVE'" in result.stderr
    assert "GOMP_SPINCOUNT = '10000'" in result.stderr

"""One product of a weight matrix, for what is computed once and not every round."""

from __future__ import annotations

import ggml
import numpy as np
from numpy.typing import NDArray

from halo_edge.compute.context import GraphContext, aligned
from halo_edge.compute.runtime import Arena, Graph, Runtime
from halo_edge.compute.weights import Matrix


def multiply(runtime: Runtime, matrix: Matrix, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """f32[n, rows]: `matrix` times each of `vectors`, f32[n, columns]."""
    c = GraphContext(nodes=8)
    x: NDArray[np.float32] = aligned(vectors.shape, np.float32)
    x[:] = vectors
    out: NDArray[np.float32] = aligned((len(vectors), matrix.rows), np.float32)
    inp = c.external(ggml.GGML_TYPE_F32, (matrix.columns, len(vectors)), x)
    c.store(runtime.weights.multiply(c, matrix, inp), out)
    Graph(runtime, c, Arena())()
    return out

"""One product of a weight matrix, for what is computed once and not every round."""

from __future__ import annotations

import ggml
import numpy as np
from numpy.typing import NDArray

from halo_edge.compute.context import GraphContext, aligned
from halo_edge.compute.joined import Joined, Weights
from halo_edge.compute.runtime import Arena, Graph, Runtime


def multiply(
    runtime: Runtime, matrix: Weights, vectors: NDArray[np.float32]
) -> NDArray[np.float32]:
    """f32[n, rows]: `matrix` times each of `vectors`, f32[n, columns]."""
    parts = len(matrix.parts) if isinstance(matrix, Joined) else 1
    c = GraphContext(nodes=8 + 5 * parts)
    x: NDArray[np.float32] = aligned(vectors.shape, np.float32)
    x[:] = vectors
    out: NDArray[np.float32] = aligned((len(vectors), matrix.rows), np.float32)
    inp = c.external(ggml.GGML_TYPE_F32, (matrix.columns, len(vectors)), x)
    c.store(runtime.weights.multiply(c, matrix, inp), out)
    Graph(runtime, c, Arena())()
    return out

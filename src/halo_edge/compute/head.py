"""The two ends of the model: token embedding, and logits for a range of vocabulary rows."""

from __future__ import annotations

import ggml
import numpy as np
from numpy.typing import NDArray

from halo_edge.compute.activations import Activations, StepInputs
from halo_edge.compute.context import GraphContext
from halo_edge.compute.runtime import Arena, Graph, Runtime
from halo_edge.compute.weights import Matrix, vector
from halo_edge.model.gguf_file import GgufFile
from halo_edge.model.hparams import HyperParameters


def build_embedding(
    runtime: Runtime, gguf: GgufFile, tokens: int, acts: Activations, inputs: StepInputs
) -> Graph:
    """`hidden` = rows of the embedding table."""
    c = GraphContext(nodes=8)
    table = Matrix.from_gguf(gguf, "token_embd.weight").tensor(c)
    ids = c.external(ggml.GGML_TYPE_I32, (tokens,), inputs.tokens)
    c.store(ggml.ggml_get_rows(c.ctx, table, ids), acts.hidden)
    return Graph(runtime, c, Arena())


def build_head(
    runtime: Runtime,
    gguf: GgufFile,
    params: HyperParameters,
    vocabulary: range,
    selected: NDArray[np.int32],
    acts: Activations,
    logits: NDArray[np.float32],
) -> Graph:
    """Logits of the step's rows named by `selected`, for the vocabulary rows `vocabulary`.

    `selected`: i32[n]; `logits`: f32[>= n, len(vocabulary)], written.
    The last layer's FFN is added here, as attention adds those before.
    """
    c = GraphContext(nodes=24)
    ctx, width = c.ctx, params.hidden
    rows = c.external(ggml.GGML_TYPE_I32, (len(selected),), selected)
    hidden = c.external(ggml.GGML_TYPE_F32, (width, acts.max_tokens), acts.hidden)
    ffn = c.external(ggml.GGML_TYPE_F32, (width, acts.max_tokens), acts.ffn)
    h = ggml.ggml_add(
        ctx, ggml.ggml_get_rows(ctx, hidden, rows), ggml.ggml_get_rows(ctx, ffn, rows)
    )
    h = ggml.ggml_rms_norm(ctx, h, params.rms_eps)
    h = ggml.ggml_mul(ctx, h, vector(c, gguf, "output_norm.weight"))
    name = "output.weight" if "output.weight" in gguf.tensors else "token_embd.weight"  # tied
    matrix = Matrix.from_gguf(gguf, name).row_range(vocabulary.start, vocabulary.stop)
    c.store(runtime.weights.multiply(c, matrix, h), logits)
    return Graph(runtime, c, Arena())

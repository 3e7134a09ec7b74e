"""The attention half of a layer, for a range of KV-head groups.

    h = h + ffn of the layer before
    n = norm(h);  h = h + W_o attention(rope(W_q n), rope(W_k n), W_v n)
    x = norm(h), which is what the FFN of this layer reads

A KV-head group is one KV head with the query heads that share it. A range of groups gives a
partial of the attention's output (summed over the devices that hold the other ranges); the root
holds all of them for now, and then partial and sum are the same.

Each sequence of a step looks at a window of the KV cache. Of a cell that the mask hides, flash
attention still reads the mask, for every head and row: a step of eight sequences of 200 tokens
(TinyLlama's shape, one thread, without the FFN) took 180 ms while all looked at all 2,048 cells,
and takes 134.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import ggml
import numpy as np
from numpy.typing import NDArray

from halo_edge.compute.activations import Activations, StepInputs
from halo_edge.compute.context import GraphContext, Tensor, aligned
from halo_edge.compute.kv_cache import KvCache
from halo_edge.compute.runtime import Arena, Graph, Runtime
from halo_edge.compute.weights import Matrix, vector
from halo_edge.errors import HaloError
from halo_edge.model.gguf_file import GgufFile
from halo_edge.model.hparams import HyperParameters, RopePairing

# Tensors of a graph, and of each sequence: two views of the cache, one of q and that permuted, a
# mask, the result.
_NODES: Final = 64
_NODES_PER_SEQUENCE: Final = 6


@dataclass(frozen=True)
class KvHeadRange:
    """KV-head groups `start:stop` of a model."""

    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start


class _View:
    """A window of one layer's keys or values, as a tensor that can be moved."""

    def __init__(self, tensor: Tensor, cache: NDArray[Any], row_bytes: int) -> None:
        self._tensor = tensor.contents
        self._cache = cache.ctypes.data
        self._row_bytes = row_bytes

    def move(self, window: range) -> None:
        """ggml reads address and length when the graph runs."""
        self._tensor.data = self._cache + window.start * self._row_bytes
        self._tensor.ne[1] = len(window)


class AttentionGraph:
    """A layer's attention for so many rows of each sequence. Calling it computes it."""

    def __init__(self, graph: Graph, views: Sequence[tuple[_View, _View]]) -> None:
        self._graph = graph
        self._views = views

    def look(self, windows: Sequence[range]) -> None:
        """From now on, each sequence at these cells."""
        for window, (keys, values) in zip(windows, self._views, strict=True):
            keys.move(window)
            values.move(window)

    def __call__(self) -> None:
        self._graph()


class AttentionBuilder:
    """Builds the attention graph of any layer for the numbers of rows of a step's sequences."""

    def __init__(
        self,
        runtime: Runtime,
        gguf: GgufFile,
        params: HyperParameters,
        heads: KvHeadRange,
        cache: KvCache,
        activations: Activations,
        inputs: StepInputs,
    ) -> None:
        self.runtime = runtime
        self.gguf = gguf
        self.params = params
        self.heads = heads
        self.cache = cache
        self.activations = activations
        self.inputs = inputs
        width = len(heads) * params.heads_per_kv * params.head_dim
        self._attended: NDArray[np.float32] = aligned((activations.max_tokens, width), np.float32)

    def build(self, layer: int, rows: Sequence[int], arena: Arena) -> AttentionGraph:
        """The graph of `layer` for a step of so many rows of each sequence, one after the other.
        Before it runs it must be told where to `look`."""
        tokens = sum(rows)
        c = GraphContext(nodes=_NODES + _NODES_PER_SEQUENCE * len(rows))
        ctx, p, acts = c.ctx, self.params, self.activations
        hidden = c.external(ggml.GGML_TYPE_F32, (p.hidden, tokens), acts.hidden)
        if layer > 0:
            ffn = c.external(ggml.GGML_TYPE_F32, (p.hidden, tokens), acts.ffn)
            hidden = c.store(ggml.ggml_add(ctx, hidden, ffn), acts.hidden)
        normed = self._norm(c, hidden, f"blk.{layer}.attn_norm.weight")
        attended, views = self._attend(c, layer, normed, rows)
        out = self.runtime.weights.multiply(c, self._output(layer), attended)
        bias = vector(c, self.gguf, f"blk.{layer}.attn_output.bias")
        if bias is not None and self.heads.start == 0:  # once in the sum over all ranges
            out = ggml.ggml_add(ctx, out, bias)
        hidden = c.store(ggml.ggml_add(ctx, hidden, out), acts.hidden)
        c.store(self._norm(c, hidden, f"blk.{layer}.ffn_norm.weight"), acts.x)
        return AttentionGraph(Graph(self.runtime, c, arena), views)

    def _norm(self, c: GraphContext, value: Tensor, weight: str) -> Tensor:
        normed = ggml.ggml_rms_norm(c.ctx, value, self.params.rms_eps)
        return ggml.ggml_mul(c.ctx, normed, vector(c, self.gguf, weight))

    def _attend(
        self, c: GraphContext, layer: int, x: Tensor, rows: Sequence[int]
    ) -> tuple[Tensor, list[tuple[_View, _View]]]:
        """[heads * head_dim, tokens] before the output projection; stores keys and values first.
        And the keys and values that each sequence looks at."""
        ctx, p, inputs = c.ctx, self.params, self.inputs
        tokens = sum(rows)
        positions = c.external(ggml.GGML_TYPE_I32, (tokens,), inputs.positions)
        cells = c.external(ggml.GGML_TYPE_I64, (tokens,), inputs.cells)
        n_kv, n_q = len(self.heads), len(self.heads) * p.heads_per_kv
        q = self._project(c, layer, "q", x, n_q, self.heads.start * p.heads_per_kv, tokens)
        k = self._project(c, layer, "k", x, n_kv, self.heads.start, tokens)
        v = self._project(c, layer, "v", x, n_kv, self.heads.start, tokens)
        q, k = self._rope(c, q, positions), self._rope(c, k, positions)

        width = n_kv * p.head_dim
        caches = []
        for new, storage in ((k, self.cache.keys[layer]), (v, self.cache.values[layer])):
            cache = c.external(ggml.GGML_TYPE_F16, (width, self.cache.cells), storage)
            flat = ggml.ggml_reshape_2d(ctx, new, width, tokens)
            c.expand(ggml.ggml_set_rows(ctx, cache, flat, cells))
            caches.append(cache)
        # Scaled here and not inside, where it would be only after q was rounded to f16: a q beyond
        # f16's range (large biases, as qwen2 has them) would become infinite.
        q = ggml.ggml_scale(ctx, q, 1.0 / math.sqrt(p.head_dim))
        views, first = [], 0
        for n in rows:
            keys, values = (self._window(c, cache) for cache in caches)
            part = slice(first, first + n)
            mask = c.external(ggml.GGML_TYPE_F16, (inputs.max_kv, n), inputs.mask[part])
            out = ggml.ggml_flash_attn_ext(
                ctx, self._rows(c, q, part), keys, values, mask, 1.0, 0.0, 0.0
            )
            ggml.ggml_flash_attn_ext_set_prec(out, ggml.GGML_PREC_F32)
            c.store(out, self._attended[part])
            views.append(
                (
                    _View(keys, self.cache.keys[layer], self.cache.row_bytes),
                    _View(values, self.cache.values[layer], self.cache.row_bytes),
                )
            )
            first += n
        return c.external(ggml.GGML_TYPE_F32, (n_q * p.head_dim, tokens), self._attended), views

    def _window(self, c: GraphContext, cache: Tensor) -> Tensor:
        """[head_dim, cells, KV heads] of the keys or values `cache`: all, until it is moved."""
        cells, head_bytes = self.cache.cells, 2 * self.params.head_dim
        shape = (self.params.head_dim, cells, len(self.heads))
        return ggml.ggml_view_3d(c.ctx, cache, *shape, self.cache.row_bytes, head_bytes, 0)

    def _rows(self, c: GraphContext, q: Tensor, part: slice) -> Tensor:
        """[head_dim, rows, heads] of some rows of q, which is [head_dim, heads, tokens]."""
        head_bytes = 4 * self.params.head_dim
        heads = len(self.heads) * self.params.heads_per_kv
        shape = (self.params.head_dim, heads, part.stop - part.start)
        row_bytes = heads * head_bytes
        rows = ggml.ggml_view_3d(c.ctx, q, *shape, head_bytes, row_bytes, part.start * row_bytes)
        return ggml.ggml_permute(c.ctx, rows, 0, 2, 1, 3)

    def _project(
        self,
        c: GraphContext,
        layer: int,
        which: str,
        x: Tensor,
        heads: int,
        first: int,
        tokens: int,
    ) -> Tensor:
        """[head_dim, heads, tokens] of query, key or value, with bias and norm where the model has
        them.
        """
        ctx, dim = c.ctx, self.params.head_dim
        prefix = f"blk.{layer}.attn_{which}"
        weight = Matrix.from_gguf(self.gguf, f"{prefix}.weight")
        weight = weight.row_range(first * dim, (first + heads) * dim)
        y = self.runtime.weights.multiply(c, weight, x)
        bias = vector(c, self.gguf, f"{prefix}.bias")
        if bias is not None:
            part = ggml.ggml_view_1d(ctx, bias, heads * dim, first * dim * 4)
            y = ggml.ggml_add(ctx, y, part)
        y = ggml.ggml_reshape_3d(ctx, y, dim, heads, tokens)
        if vector(c, self.gguf, f"{prefix}_norm.weight") is not None:  # qwen3
            y = self._norm(c, y, f"{prefix}_norm.weight")
        return y

    def _rope(self, c: GraphContext, value: Tensor, positions: Tensor) -> Tensor:
        p, s = self.params, self.params.rope_scaling
        mode = 0 if p.rope_pairing is RopePairing.ADJACENT else ggml.GGML_ROPE_TYPE_NEOX
        factors = vector(c, self.gguf, "rope_freqs.weight")  # Llama 3's scaling
        original = s.original_context or p.context
        return ggml.ggml_rope_ext(
            c.ctx, value, positions, factors, p.rope_dim, mode, original, p.rope_base,
            s.frequency_scale, s.extrapolation, s.attention_factor, s.beta_fast, s.beta_slow,
        )  # fmt: skip

    def _output(self, layer: int) -> Matrix:
        name = f"blk.{layer}.attn_output.weight"
        per_group = self.params.heads_per_kv * self.params.head_dim
        matrix = Matrix.from_gguf(self.gguf, name)
        part = matrix.column_range(self.heads.start * per_group, self.heads.stop * per_group)
        if part is None:
            raise HaloError(f"{name} cannot be cut at KV head {self.heads.start}: block too large")
        return part

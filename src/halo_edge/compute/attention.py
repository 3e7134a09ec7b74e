"""The attention half of a layer, for a range of KV-head groups.

    h = h + ffn of the layer before
    n = norm(h);  h = h + W_o attention(rope(W_q n), rope(W_k n), W_v n)
    x = norm(h), which is what the FFN of this layer reads

A KV-head group is one KV head with the query heads that share it. A range of groups gives a
partial of the attention's output (summed over the devices that hold the other ranges); the root
holds all of them for now, and then partial and sum are the same.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import ggml

from halo_edge.compute.activations import Activations, StepInputs
from halo_edge.compute.context import GraphContext, Tensor
from halo_edge.compute.kv_cache import KvCache
from halo_edge.compute.runtime import Arena, Graph, Runtime
from halo_edge.compute.weights import Matrix, vector
from halo_edge.errors import HaloError
from halo_edge.model.gguf_file import GgufFile
from halo_edge.model.hparams import HyperParameters, RopePairing


@dataclass(frozen=True)
class KvHeadRange:
    """KV-head groups `start:stop` of a model."""

    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start


class AttentionBuilder:
    """Builds the attention graph of any layer for (tokens, KV bucket)."""

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

    def build(self, layer: int, tokens: int, kv: int, arena: Arena) -> Graph:
        """The graph of `layer` for a step of `tokens` tokens that looks at the first `kv` cells."""
        c = GraphContext()
        ctx, p, acts = c.ctx, self.params, self.activations
        hidden = c.external(ggml.GGML_TYPE_F32, (p.hidden, tokens), acts.hidden)
        if layer > 0:
            ffn = c.external(ggml.GGML_TYPE_F32, (p.hidden, tokens), acts.ffn)
            hidden = c.store(ggml.ggml_add(ctx, hidden, ffn), acts.hidden)
        normed = self._norm(c, hidden, f"blk.{layer}.attn_norm.weight")
        attended = self._attend(c, layer, normed, tokens, kv)
        out = self.runtime.weights.multiply(c, self._output(layer), attended)
        bias = vector(c, self.gguf, f"blk.{layer}.attn_output.bias")
        if bias is not None and self.heads.start == 0:  # once in the sum over all ranges
            out = ggml.ggml_add(ctx, out, bias)
        hidden = c.store(ggml.ggml_add(ctx, hidden, out), acts.hidden)
        c.store(self._norm(c, hidden, f"blk.{layer}.ffn_norm.weight"), acts.x)
        return Graph(self.runtime, c, arena)

    def _norm(self, c: GraphContext, value: Tensor, weight: str) -> Tensor:
        normed = ggml.ggml_rms_norm(c.ctx, value, self.params.rms_eps)
        return ggml.ggml_mul(c.ctx, normed, vector(c, self.gguf, weight))

    def _attend(self, c: GraphContext, layer: int, x: Tensor, tokens: int, kv: int) -> Tensor:
        """[heads * head_dim, tokens] before the output projection; stores keys and values first."""
        ctx, p, inputs = c.ctx, self.params, self.inputs
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
            rows = ggml.ggml_reshape_2d(ctx, new, width, tokens)
            c.expand(ggml.ggml_set_rows(ctx, cache, rows, cells))
            head_bytes, row_bytes = 2 * p.head_dim, 2 * width
            caches.append(
                ggml.ggml_view_3d(ctx, cache, p.head_dim, kv, n_kv, row_bytes, head_bytes, 0)
            )
        mask = c.external(ggml.GGML_TYPE_F16, (kv, tokens), inputs.mask(tokens, kv))
        # Scaled here and not inside, where it would be only after q was rounded to f16: a q beyond
        # f16's range (large biases, as qwen2 has them) would become infinite.
        q = ggml.ggml_scale(ctx, q, 1.0 / math.sqrt(p.head_dim))
        q = ggml.ggml_permute(ctx, q, 0, 2, 1, 3)
        out = ggml.ggml_flash_attn_ext(ctx, q, caches[0], caches[1], mask, 1.0, 0.0, 0.0)
        ggml.ggml_flash_attn_ext_set_prec(out, ggml.GGML_PREC_F32)
        return ggml.ggml_reshape_2d(ctx, out, n_q * p.head_dim, tokens)

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

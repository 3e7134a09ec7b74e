"""The hyper-parameters of a decoder of the LLaMA family, read from a GGUF's metadata.

This file knows the architectures: what each calls its parameters and in what it differs. It knows
nothing of graphs or devices.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum
from typing import Final

from halo_edge.errors import HaloError
from halo_edge.model.gguf_file import GgufFile


class RopePairing(Enum):
    """Which two values of a head rotate together."""

    ADJACENT = "adjacent"  # (0,1), (2,3), ...: llama as llama.cpp permutes it
    HALVES = "halves"  # (0,d/2), (1,d/2+1), ...: qwen2, qwen3 ("neox")


_PAIRINGS: Final = {
    "llama": RopePairing.ADJACENT,
    "qwen2": RopePairing.HALVES,
    "qwen3": RopePairing.HALVES,
}


@dataclass(frozen=True)
class RopeScaling:
    """How positions beyond the training context are folded (YaRN, arXiv 2309.00071, or linear).

    `frequency_scale` is 1/factor. For plain RoPE it is 1 and `extrapolation` is 0. Llama 3's own
    scaling comes as a tensor of per-frequency factors instead (`rope_freqs.weight`).
    """

    frequency_scale: float = 1.0
    extrapolation: float = 0.0
    attention_factor: float = 1.0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    original_context: int = 0


@dataclass(frozen=True)
class HyperParameters:
    """Sizes of a model. All are counts; `rms_eps` and the rope fields are plain numbers."""

    architecture: str
    n_layers: int
    hidden: int
    ffn: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    vocab: int
    context: int  # positions the model was trained on
    rms_eps: float
    rope_base: float
    rope_dim: int
    rope_pairing: RopePairing
    rope_scaling: RopeScaling

    @property
    def heads_per_kv(self) -> int:
        """Query heads that share one KV head."""
        return self.n_heads // self.n_kv_heads

    @classmethod
    def from_gguf(cls, gguf: GgufFile) -> HyperParameters:
        """Raises `HaloError` for an unsupported architecture or sizes that do not fit together."""
        arch = str(gguf.need("general.architecture", str))
        if arch not in _PAIRINGS:
            raise HaloError(
                f"unsupported architecture {arch!r} in {gguf.path}; "
                f"supported are {', '.join(_PAIRINGS)}"
            )
        if gguf.metadata.get(f"{arch}.expert_count"):
            raise HaloError(f"unsupported architecture: {gguf.path} is a mixture of experts")

        def integer(key: str, default: int | None = None) -> int:
            if default is not None and f"{arch}.{key}" not in gguf.metadata:
                return default
            value = gguf.need(f"{arch}.{key}", int)  # type: ignore[arg-type]
            if not isinstance(value, int) or not 0 < value < 1 << 31:
                raise HaloError(f"{gguf.path}: {arch}.{key} is not a sensible count")
            return value

        def number(key: str, default: float) -> float:
            if f"{arch}.{key}" not in gguf.metadata:
                return default
            value = gguf.need(f"{arch}.{key}", float)  # type: ignore[arg-type]
            if not isinstance(value, float) or not math.isfinite(value) or value < 0:
                raise HaloError(f"{gguf.path}: {arch}.{key} is not a sensible number")
            return value

        hidden, n_heads = integer("embedding_length"), integer("attention.head_count")
        head_dim = integer("attention.key_length", max(hidden // n_heads, 1))
        context = integer("context_length")
        params = cls(
            architecture=arch,
            n_layers=integer("block_count"),
            hidden=hidden,
            ffn=integer("feed_forward_length"),
            n_heads=n_heads,
            n_kv_heads=integer("attention.head_count_kv", n_heads),
            head_dim=head_dim,
            vocab=gguf.tensor("token_embd.weight").shape[-1],
            context=context,
            rms_eps=number("attention.layer_norm_rms_epsilon", 1e-5),
            rope_base=number("rope.freq_base", 10000.0),
            rope_dim=integer("rope.dimension_count", head_dim),
            rope_pairing=_PAIRINGS[arch],
            rope_scaling=_rope_scaling(
                str(gguf.metadata.get(f"{arch}.rope.scaling.type", "none")),
                number("rope.scaling.factor", 0.0) or number("rope.scale_linear", 1.0),
                number("rope.scaling.attn_factor", 1.0),
                integer("rope.scaling.original_context_length", context),
            ),
        )
        params._check(gguf)
        return params

    def _check(self, gguf: GgufFile) -> None:
        if self.n_heads % self.n_kv_heads:
            raise HaloError(f"{gguf.path}: {self.n_heads} heads over {self.n_kv_heads} KV heads")
        heads = self.n_heads * self.head_dim
        kv_heads = self.n_kv_heads * self.head_dim
        expected = {
            "token_embd.weight": (self.hidden, self.vocab),
            "output_norm.weight": (self.hidden,),
        }
        for layer in range(self.n_layers):
            expected |= {
                f"blk.{layer}.attn_norm.weight": (self.hidden,),
                f"blk.{layer}.attn_q.weight": (self.hidden, heads),
                f"blk.{layer}.attn_k.weight": (self.hidden, kv_heads),
                f"blk.{layer}.attn_v.weight": (self.hidden, kv_heads),
                f"blk.{layer}.attn_output.weight": (heads, self.hidden),
                f"blk.{layer}.ffn_norm.weight": (self.hidden,),
                f"blk.{layer}.ffn_gate.weight": (self.hidden, self.ffn),
                f"blk.{layer}.ffn_up.weight": (self.hidden, self.ffn),
                f"blk.{layer}.ffn_down.weight": (self.ffn, self.hidden),
            }
        for name, shape in expected.items():
            if gguf.tensor(name).shape != shape:
                raise HaloError(
                    f"{gguf.path}: {name} is {gguf.tensor(name).shape}, its sizes call for {shape}"
                )


def _rope_scaling(kind: str, factor: float, attention_factor: float, original: int) -> RopeScaling:
    """Map GGUF's scaling type and factor as llama.cpp does; an unknown type is plain RoPE there."""
    scale = 1.0 / factor if factor > 0 else 1.0
    if kind == "yarn":
        return RopeScaling(scale, 1.0, attention_factor, original_context=original)
    if kind == "linear" or (kind == "none" and scale != 1.0):
        return RopeScaling(scale)
    return RopeScaling()

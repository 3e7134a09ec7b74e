"""The hyper-parameters of a decoder of the LLaMA family, read from a GGUF's metadata.

This file knows the architectures: what each calls its parameters and in what it differs. It knows
nothing of graphs or devices.
"""

from __future__ import annotations

import math
import reprlib
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Final

from halo_edge.errors import HaloError
from halo_edge.model.gguf_file import WEIGHT_TYPES, GgufFile

_F32: Final = 0  # the ggml type of norms and biases


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
        """Raises `HaloError` for an unsupported architecture, and for a file that does not hold
        exactly the tensors that its sizes call for.
        """
        arch = gguf.need("general.architecture", _text)
        if arch not in _PAIRINGS:
            raise HaloError(
                f"unsupported architecture {reprlib.repr(arch)} in {gguf.path}; "
                f"supported are {', '.join(_PAIRINGS)}"
            )
        experts = gguf.metadata.get(f"{arch}.expert_count", 0)
        if not isinstance(experts, int) or experts:
            raise HaloError(f"unsupported architecture: {gguf.path} is a mixture of experts")

        def integer(key: str, default: int | None = None) -> int:
            if default is not None and f"{arch}.{key}" not in gguf.metadata:
                return default
            return gguf.need(f"{arch}.{key}", _count)

        def number(key: str, default: float) -> float:
            if f"{arch}.{key}" not in gguf.metadata:
                return default
            return gguf.need(f"{arch}.{key}", _number)

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
                gguf.need(f"{arch}.rope.scaling.type", _text)
                if f"{arch}.rope.scaling.type" in gguf.metadata
                else "linear",
                number("rope.scaling.factor", 0.0) or number("rope.scale_linear", 0.0),
                number("rope.scaling.attn_factor", 1.0),
                integer("rope.scaling.original_context_length", context),
            ),
        )
        params._check(gguf)
        return params

    def _check(self, gguf: GgufFile) -> None:
        """Refuse a file whose tensors are not those of this model: ggml would end the process, or
        compute nonsense.
        """
        if self.n_heads % self.n_kv_heads:
            raise HaloError(f"{gguf.path}: {self.n_heads} heads over {self.n_kv_heads} KV heads")
        if self.head_dim % 2 or self.rope_dim != self.head_dim:
            raise HaloError(
                f"unsupported model: {gguf.path} rotates {self.rope_dim} of the {self.head_dim} "
                f"values of a head; supported are even sizes, rotated whole"
            )
        known = set()
        for name, shape, required in self._tensors():
            if not required and name not in gguf.tensors:
                continue
            info = gguf.tensor(name)
            if info.shape != shape:
                raise HaloError(f"{gguf.path}: {name} is {info.shape}, its sizes call for {shape}")
            if info.ggml_type not in (WEIGHT_TYPES if len(shape) > 1 else (_F32,)):
                raise HaloError(f"{gguf.path}: {name} is of the unsupported type {info.ggml_type}")
            known.add(name)
        if unknown := gguf.tensors.keys() - known:
            raise HaloError(
                f"unsupported model: {gguf.path} has a tensor {reprlib.repr(min(unknown))}, "
                f"which is no part of {self.architecture}"
            )

    def _tensors(self) -> Iterator[tuple[str, tuple[int, ...], bool]]:
        """Name, shape, and whether the model must have it. One layer after the other, so that a
        number of layers that is damaged is noticed at the first missing one.
        """
        heads, kv_heads = self.n_heads * self.head_dim, self.n_kv_heads * self.head_dim
        hidden, ffn, qwen2 = self.hidden, self.ffn, self.architecture == "qwen2"
        yield "token_embd.weight", (hidden, self.vocab), True
        yield "output_norm.weight", (hidden,), True
        yield "output.weight", (hidden, self.vocab), False  # else the token embedding
        yield "rope_freqs.weight", (self.rope_dim // 2,), False
        for layer in range(self.n_layers):
            blk = f"blk.{layer}."
            yield blk + "attn_norm.weight", (hidden,), True
            for which, size in (("q", heads), ("k", kv_heads), ("v", kv_heads)):
                yield f"{blk}attn_{which}.weight", (hidden, size), True
                yield f"{blk}attn_{which}.bias", (size,), qwen2
            if self.architecture == "qwen3":
                yield blk + "attn_q_norm.weight", (self.head_dim,), True
                yield blk + "attn_k_norm.weight", (self.head_dim,), True
            yield blk + "attn_output.weight", (heads, hidden), True
            yield blk + "attn_output.bias", (hidden,), False
            yield blk + "ffn_norm.weight", (hidden,), True
            yield blk + "ffn_gate.weight", (hidden, ffn), True
            yield blk + "ffn_up.weight", (hidden, ffn), True
            yield blk + "ffn_down.weight", (ffn, hidden), True


def _rope_scaling(kind: str, factor: float, attention_factor: float, original: int) -> RopeScaling:
    """Map GGUF's scaling type and factor as llama.cpp does. A factor of 0 is none."""
    scale = 1.0 / factor if factor > 0 else 1.0
    if kind == "yarn":
        return RopeScaling(scale, 1.0, attention_factor, original_context=original)
    if kind == "linear":
        return RopeScaling(scale)
    if kind == "none":
        return RopeScaling()
    raise HaloError(f"unsupported rope scaling {reprlib.repr(kind)}; use another model")


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError
    return value


def _count(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value < 1 << 31:
        raise ValueError
    return value


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError
    if not 0 <= value < math.inf:
        raise ValueError
    return float(value)

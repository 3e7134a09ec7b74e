"""Write a GGUF of a named shape with random weights: for speed work and for tests.

Such a model computes what a real one of its shape does, at the same speed, and says nonsense.
Weights are scaled so that activations stay near unit size through every layer. They are drawn
directly in their quantised layout, piece by piece, so a 7B model takes neither its own size in
memory nor the hours of a quantiser. The vocabulary is byte-level: any text can be encoded.
"""

from __future__ import annotations

import math
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import numpy as np
from gguf import GGMLQuantizationType, GGUFWriter, TokenType
from numpy.typing import NDArray

from halo_edge.errors import HaloError
from halo_edge.model.gguf_file import DEFAULT_ALIGNMENT, tensor_nbytes
from halo_edge.model.synth_blocks import QUANTIZATIONS, random_blocks

Progress = Callable[[int, int | None], None]

_PIECE_VALUES: Final = 1 << 23  # drawn and written at a time: a few tens of MB
_MERGES: Final = (("t", "h"), ("th", "e"), ("Ġ", "the"), ("i", "n"), ("Ġ", "a"))
_CONTROL_TOKENS: Final = ("<s>", "</s>")
_CHAT_TEMPLATE: Final = "{% for message in messages %}{{ message['content'] }}\n{% endfor %}"


@dataclass(frozen=True)
class SyntheticShape:
    """Sizes of a synthetic model; fields as in `HyperParameters`.

    `tied`: the head uses the token embedding. `llama3_rope`: the file carries the per-frequency
    factors of Llama 3's rope scaling. qwen2 gets biases on q, k and v; qwen3 norms on q and k.
    """

    architecture: str
    n_layers: int
    hidden: int
    ffn: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    vocab: int
    context: int
    rope_base: float = 10000.0
    tied: bool = False
    llama3_rope: bool = False


SHAPES: Final[Mapping[str, SyntheticShape]] = MappingProxyType(
    {
        "tiny": SyntheticShape("llama", 3, 128, 512, 4, 2, 32, 512, 512),
        "tinyllama-1.1b": SyntheticShape("llama", 22, 2048, 5632, 32, 4, 64, 32000, 2048),
        "llama-3.2-1b": SyntheticShape(
            "llama", 16, 2048, 8192, 32, 8, 64, 128256, 131072, 500000.0, True, True
        ),
        "llama-2-7b": SyntheticShape("llama", 32, 4096, 11008, 32, 32, 128, 32000, 4096),
    }
)


class _Role(Enum):
    WEIGHT = "weight"
    NORM = "norm"
    BIAS = "bias"
    ROPE_FACTORS = "rope factors"


@dataclass(frozen=True)
class _Tensor:
    name: str
    shape: tuple[int, ...]  # ggml's order: contiguous dimension first
    role: _Role
    ggml_type: GGMLQuantizationType

    @property
    def nbytes(self) -> int:
        return tensor_nbytes(self.ggml_type, self.shape)


def write_synthetic(
    shape: str | SyntheticShape,
    path: Path,
    *,
    quantization: str = "q4_0",
    seed: int = 0,
    progress: Progress | None = None,
) -> None:
    """Write a random model to `path` (replaced, in one rename, if it exists).

    `shape` is one of `SHAPES` or sizes of one's own, `quantization` one of q4_0, q4_1, q8_0, q4_K,
    q6_K, f16, f32, in any case. Rows that no whole number of its blocks makes up are Q8_0, as
    llama.cpp's quantiser too falls back to another type. The same seed gives the same file.
    `progress` gets the bytes written and their total. Raises `HaloError`.
    """
    sizes = _sizes(shape)
    if quantization.upper() not in QUANTIZATIONS:
        raise HaloError(
            f"no such quantization: {quantization}; there are {', '.join(QUANTIZATIONS).lower()}"
        )
    if seed < 0:
        raise HaloError(f"the seed {seed} is negative; give one from 0")
    tensors = list(_tensors(sizes, GGMLQuantizationType[quantization.upper()]))
    total = sum(tensor.nbytes for tensor in tensors)
    name = f"synthetic {shape if isinstance(shape, str) else sizes.architecture}"
    staged: Path | None = None
    try:
        free = shutil.disk_usage(path.parent).free
        if free < total:
            raise HaloError(
                f"not enough disk space for {path}: {total / 1e6:,.0f} MB needed, "
                f"{free / 1e6:,.0f} MB free"
            )
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".synth-", delete=False) as file:
            staged = Path(file.name)
        _write_header(staged, sizes, name, tensors)
        _write_weights(staged, sizes, tensors, np.random.default_rng(seed), progress)
        staged.chmod(0o644)  # a temporary file is its owner's alone
        staged.replace(path)
    except OSError as error:
        raise HaloError(f"cannot write {path}: {error.strerror or error}") from None
    finally:
        if staged is not None:
            staged.unlink(missing_ok=True)


def _sizes(shape: str | SyntheticShape) -> SyntheticShape:
    if isinstance(shape, str):
        if shape not in SHAPES:
            raise HaloError(f"no such shape: {shape}; there are {', '.join(SHAPES)}")
        return SHAPES[shape]
    if any(n % 32 for n in (shape.hidden, shape.ffn, shape.n_heads * shape.head_dim)):
        raise HaloError("hidden, ffn and heads x head_dim of a shape must be multiples of 32")
    if shape.vocab < (least := len(_vocabulary_start())):
        raise HaloError(f"a vocabulary of {shape.vocab} is too small; it needs {least}")
    return shape


def _tensors(sizes: SyntheticShape, ggml_type: GGMLQuantizationType) -> Iterator[_Tensor]:
    """All tensors, in the order of the file, by the names of llama.cpp."""

    def weight(name: str, row: int, rows: int) -> _Tensor:
        whole = row % QUANTIZATIONS[ggml_type.name].block == 0
        row_type = ggml_type if whole else GGMLQuantizationType.Q8_0
        return _Tensor(f"{name}.weight", (row, rows), _Role.WEIGHT, row_type)

    def vector(name: str, size: int, role: _Role = _Role.NORM) -> _Tensor:
        return _Tensor(name, (size,), role, GGMLQuantizationType.F32)

    heads, kv_heads = sizes.n_heads * sizes.head_dim, sizes.n_kv_heads * sizes.head_dim
    hidden, ffn = sizes.hidden, sizes.ffn
    yield weight("token_embd", hidden, sizes.vocab)
    if sizes.llama3_rope:
        yield vector("rope_freqs.weight", sizes.head_dim // 2, _Role.ROPE_FACTORS)
    for layer in range(sizes.n_layers):
        prefix = f"blk.{layer}."
        yield vector(prefix + "attn_norm.weight", hidden)
        for which, size in (("q", heads), ("k", kv_heads), ("v", kv_heads)):
            yield weight(f"{prefix}attn_{which}", hidden, size)
            if sizes.architecture == "qwen2":
                yield vector(f"{prefix}attn_{which}.bias", size, _Role.BIAS)
            if sizes.architecture == "qwen3" and which != "v":
                yield vector(f"{prefix}attn_{which}_norm.weight", sizes.head_dim)
        yield weight(prefix + "attn_output", heads, hidden)
        yield vector(prefix + "ffn_norm.weight", hidden)
        yield weight(prefix + "ffn_gate", hidden, ffn)
        yield weight(prefix + "ffn_up", hidden, ffn)
        yield weight(prefix + "ffn_down", ffn, hidden)
    yield vector("output_norm.weight", hidden)
    if not sizes.tied:
        yield weight("output", hidden, sizes.vocab)


def _write_header(path: Path, sizes: SyntheticShape, name: str, tensors: list[_Tensor]) -> None:
    writer = GGUFWriter(path, sizes.architecture)
    writer.add_name(name)
    writer.add_quantization_version(2)
    writer.add_block_count(sizes.n_layers)
    writer.add_context_length(sizes.context)
    writer.add_embedding_length(sizes.hidden)
    writer.add_feed_forward_length(sizes.ffn)
    writer.add_head_count(sizes.n_heads)
    writer.add_head_count_kv(sizes.n_kv_heads)
    if sizes.head_dim * sizes.n_heads != sizes.hidden:
        writer.add_key_length(sizes.head_dim)
        writer.add_value_length(sizes.head_dim)
    writer.add_rope_freq_base(sizes.rope_base)
    writer.add_rope_dimension_count(sizes.head_dim)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(sizes.vocab)
    _add_tokenizer(writer, sizes.vocab)
    for tensor in tensors:
        # numpy's order of dimensions; with a raw type given, the dtype is not looked at.
        dims, dtype = tensor.shape[::-1], np.dtype(np.float32)
        writer.add_tensor_info(tensor.name, dims, dtype, tensor.nbytes, tensor.ggml_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()


def _vocabulary_start() -> list[str]:
    """Control tokens, one token a byte (in GPT-2's printable alphabet), and the merges' results."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(0x100) if byte not in printable]
    alphabet = {byte: chr(byte) for byte in printable}
    alphabet |= {byte: chr(0x100 + i) for i, byte in enumerate(others)}
    return [
        *_CONTROL_TOKENS,
        *(alphabet[byte] for byte in range(0x100)),
        *(left + right for left, right in _MERGES),
    ]


def _add_tokenizer(writer: GGUFWriter, vocab: int) -> None:
    """A byte-level BPE vocabulary, filled up with words that only a random model would say."""
    tokens = _vocabulary_start()
    tokens += [f"Ġw{i}" for i in range(vocab - len(tokens))]
    n_control = len(_CONTROL_TOKENS)
    types = [TokenType.CONTROL] * n_control + [TokenType.NORMAL] * (vocab - n_control)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges([f"{left} {right}" for left, right in _MERGES])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    writer.add_add_bos_token(True)
    writer.add_chat_template(_CHAT_TEMPLATE)


def _write_weights(
    path: Path,
    sizes: SyntheticShape,
    tensors: list[_Tensor],
    rng: np.random.Generator,
    progress: Progress | None,
) -> None:
    done, total = 0, sum(tensor.nbytes for tensor in tensors)
    with path.open("ab") as out:
        out.write(bytes(-out.tell() % DEFAULT_ALIGNMENT))
        for tensor in tensors:
            for piece in _values(tensor, sizes, rng):
                out.write(piece.data)
                done += piece.nbytes
                if progress is not None:
                    progress(done, total)
            out.write(bytes(-tensor.nbytes % DEFAULT_ALIGNMENT))


def _values(
    tensor: _Tensor, sizes: SyntheticShape, rng: np.random.Generator
) -> Iterator[NDArray[Any]]:
    """The content of a tensor in pieces. Norms and biases vary, so that leaving one out shows."""
    row, f32 = tensor.shape[0], np.float32
    if tensor.role is _Role.NORM:
        yield rng.uniform(0.5, 1.5, row).astype(f32)
    elif tensor.role is _Role.BIAS:
        yield rng.uniform(-0.5, 0.5, row).astype(f32)
    elif tensor.role is _Role.ROPE_FACTORS:
        yield llama3_rope_factors(sizes.head_dim, sizes.rope_base).astype(f32)
    else:
        rows, step = tensor.shape[1], max(_PIECE_VALUES // row, 1)
        for first in range(0, rows, step):
            values = row * min(step, rows - first)
            # Inputs of unit size then give outputs of unit size.
            yield random_blocks(rng, tensor.ggml_type.name, values, deviation=1 / math.sqrt(row))


def llama3_rope_factors(head_dim: int, base: float) -> NDArray[np.float64]:
    """By what Llama 3.1 and later divide each frequency of rope: f64[head_dim / 2].

    Source: llama.cpp's convert_hf_to_gguf.py, for rope_type "llama3" with the parameters of
    Llama 3.2 1B (factor 32, low 1, high 4, original context 8192).
    """
    factor, low, high, original = 32.0, 1.0, 4.0, 8192.0
    wavelength = 2 * math.pi * base ** (np.arange(0, head_dim, 2) / head_dim)
    smooth = (original / wavelength - low) / (high - low)
    middle = 1 / ((1 - smooth) / factor + smooth)
    factors = np.where(wavelength > original / low, factor, middle)
    return np.where(wavelength < original / high, 1.0, factors)

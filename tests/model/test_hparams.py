"""Hyper-parameters, and every file that ggml could not compute with."""

from __future__ import annotations

import re
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from halo_edge.errors import HaloError
from halo_edge.model.gguf_file import GgufFile
from halo_edge.model.hparams import HyperParameters, RopePairing, RopeScaling

UINT8, UINT32, INT32, FLOAT32, BOOL, STRING, ARRAY, UINT64, FLOAT64 = 0, 4, 5, 6, 7, 8, 9, 10, 12


def read(path: Path) -> HyperParameters:
    return HyperParameters.from_gguf(GgufFile.open(path))


@pytest.fixture
def image(tiny_model: Path, gguf_image: Any) -> Any:
    """The tiny llama: 3 layers, hidden 128, ffn 512, 4 heads of 32, 2 KV heads, 512 tokens."""
    return gguf_image.read(tiny_model)


def refused(image: Any, tmp_path: Path, message: str) -> None:
    path = image.write(tmp_path / "model.gguf")
    gguf = GgufFile.open(path)
    with pytest.raises(HaloError, match=message) as caught:
        HyperParameters.from_gguf(gguf)
    assert "\n" not in str(caught.value)


def test_tiny(tiny_model: Path) -> None:
    assert read(tiny_model) == HyperParameters(
        architecture="llama", n_layers=3, hidden=128, ffn=512, n_heads=4, n_kv_heads=2,
        head_dim=32, vocab=512, context=512, rms_eps=pytest.approx(1e-5), rope_base=10000.0,
        rope_dim=32, rope_pairing=RopePairing.ADJACENT, rope_scaling=RopeScaling(),
    )  # fmt: skip
    assert read(tiny_model).heads_per_kv == 2


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "qwen3"])
@pytest.mark.parametrize("tied", [False, True])
def test_architectures(make_model: Any, architecture: str, tied: bool) -> None:
    params = read(make_model(architecture=architecture, tied=tied, head_dim=64, llama3_rope=True))
    assert params.architecture == architecture
    assert (params.head_dim, params.rope_dim, params.n_heads) == (64, 64, 4)
    halves = architecture != "llama"
    assert params.rope_pairing is (RopePairing.HALVES if halves else RopePairing.ADJACENT)


def test_demo_model(demo_model: Path) -> None:
    params = read(demo_model)
    assert (params.n_layers, params.hidden, params.ffn) == (30, 576, 1536)
    assert (params.n_heads, params.n_kv_heads, params.head_dim, params.vocab) == (9, 3, 64, 49152)
    assert (params.context, params.rope_base) == (8192, 100000.0)


def test_defaults(image: Any, tmp_path: Path) -> None:
    """As llama.cpp's: as many KV heads as heads, heads that share the hidden size."""
    for key in ("attention.layer_norm_rms_epsilon", "rope.freq_base", "rope.dimension_count"):
        del image.metadata[f"llama.{key}"]
    params = read(image.write(tmp_path / "model.gguf"))
    assert (params.rms_eps, params.rope_base, params.rope_dim) == (1e-5, 10000.0, 32)
    del image.metadata["llama.attention.head_count_kv"]
    refused(
        image, tmp_path, r"blk\.0\.attn_k\.weight is \(128, 64\), its sizes call for \(128, 128\)"
    )


@pytest.mark.parametrize("kind", [UINT32, INT32, UINT64])
def test_counts_of_any_integer_type(image: Any, tmp_path: Path, kind: int) -> None:
    image.set("llama.block_count", kind, 3)
    assert read(image.write(tmp_path / "model.gguf")).n_layers == 3


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        ({}, RopeScaling()),
        ({"type": "none", "factor": 4.0}, RopeScaling()),
        ({"type": "linear", "factor": 4.0}, RopeScaling(0.25)),
        ({"factor": 4.0}, RopeScaling(0.25)),
        ({"factor": 0.0}, RopeScaling()),
        ({"type": "linear"}, RopeScaling()),
        (
            {"type": "yarn", "factor": 8.0, "original_context_length": 64, "attn_factor": 1.5},
            RopeScaling(0.125, 1.0, 1.5, original_context=64),
        ),
        ({"type": "yarn", "factor": 2.0}, RopeScaling(0.5, 1.0, original_context=512)),
    ],
)
def test_rope_scaling(
    image: Any, tmp_path: Path, metadata: dict[str, Any], expected: RopeScaling
) -> None:
    kinds = {str: STRING, float: FLOAT32, int: UINT32}
    for key, value in metadata.items():
        image.set(f"llama.rope.scaling.{key}", kinds[type(value)], value)
    assert read(image.write(tmp_path / "model.gguf")).rope_scaling == expected


@pytest.mark.parametrize("kind", ["longrope", "su", ""])
def test_unknown_rope_scaling(image: Any, tmp_path: Path, kind: str) -> None:
    image.set("llama.rope.scaling.type", STRING, kind)
    refused(image, tmp_path, f"unsupported rope scaling '{kind}'")


@pytest.mark.parametrize("architecture", ["gpt2", "", "LLAMA", "mixtral", "x" * 10_000, "a\nb"])
def test_unsupported_architecture(image: Any, tmp_path: Path, architecture: str) -> None:
    image.set("general.architecture", STRING, architecture)
    refused(image, tmp_path, "unsupported architecture '.* supported are llama, qwen2, qwen3")
    with pytest.raises(HaloError) as caught:
        read(tmp_path / "model.gguf")
    assert len(str(caught.value)) < 400


def test_mixture_of_experts(image: Any, tmp_path: Path) -> None:
    image.set("llama.expert_count", UINT32, 0)
    assert read(image.write(tmp_path / "model.gguf")).n_layers == 3
    image.set("llama.expert_count", UINT32, 8)
    refused(image, tmp_path, "is a mixture of experts")
    image.metadata["llama.expert_count"] = (ARRAY, struct.pack("<IQ3I", UINT32, 3, 0, 8, 8))
    refused(image, tmp_path, "is a mixture of experts")


COUNTS = [
    "embedding_length", "block_count", "feed_forward_length", "attention.head_count",
    "attention.head_count_kv", "context_length", "rope.dimension_count", "attention.key_length",
    "rope.scaling.original_context_length",
]  # fmt: skip
NUMBERS = [
    "attention.layer_norm_rms_epsilon", "rope.freq_base", "rope.scaling.factor",
    "rope.scaling.attn_factor", "rope.scale_linear",
]  # fmt: skip
NOT_A_NUMBER = [
    (STRING, struct.pack("<Q", 1) + b"3"),
    (BOOL, b"\1"),
    (ARRAY, struct.pack("<IQI", UINT32, 1, 3)),
    (ARRAY, struct.pack("<IQ3I", UINT32, 3, 3, 3, 3)),
    (ARRAY, struct.pack("<IQQ", STRING, 1, 0)),
    (FLOAT32, struct.pack("<f", float("nan"))),
    (FLOAT32, struct.pack("<f", float("inf"))),
    (FLOAT64, struct.pack("<d", -1.0)),
    (INT32, struct.pack("<i", -1)),
]
NOT_A_COUNT = [
    (UINT32, struct.pack("<I", 0)),
    (UINT64, struct.pack("<Q", 1 << 31)),
    (UINT64, struct.pack("<Q", 2**64 - 1)),
    (FLOAT32, struct.pack("<f", 3.0)),
]


@pytest.mark.parametrize("stored", NOT_A_NUMBER + NOT_A_COUNT, ids=str)
def test_values_that_are_no_counts(image: Any, tmp_path: Path, stored: tuple[int, bytes]) -> None:
    original = dict(image.metadata)
    for key in COUNTS:
        image.metadata = {**original, f"llama.{key}": stored}
        refused(image, tmp_path, rf"the metadata key llama\.{re.escape(key)} is unusable")


@pytest.mark.parametrize("stored", NOT_A_NUMBER, ids=str)
def test_values_that_are_no_numbers(image: Any, tmp_path: Path, stored: tuple[int, bytes]) -> None:
    original = dict(image.metadata)
    for key in NUMBERS:
        image.metadata = {**original, f"llama.{key}": stored}
        refused(image, tmp_path, rf"the metadata key llama\.{re.escape(key)} is unusable")


@pytest.mark.parametrize("key", ["general.architecture", "llama.rope.scaling.type"])
def test_values_that_are_no_text(image: Any, tmp_path: Path, key: str) -> None:
    for stored in NOT_A_NUMBER[1:] + NOT_A_COUNT:
        image.metadata[key] = stored
        refused(image, tmp_path, f"the metadata key {re.escape(key)} is unusable")


@pytest.mark.parametrize(
    "key",
    ["general.architecture", *(f"llama.{key}" for key in (*COUNTS[:4], "context_length"))],
)
def test_missing_keys(image: Any, tmp_path: Path, key: str) -> None:
    del image.metadata[key]
    refused(image, tmp_path, f"lacks the metadata key {re.escape(key)}; is it a language model")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"attention.head_count_kv": 3}, "4 heads over 3 KV heads"),
        ({"attention.head_count_kv": 8}, "4 heads over 8 KV heads"),
        ({"attention.head_count": 2}, "attn_k"),  # heads of 64
        ({"embedding_length": 64}, "rotates 32 of the 16 values of a head"),
        ({"embedding_length": 256}, "rotates 32 of the 64 values"),
        ({"feed_forward_length": 256}, r"blk\.0\.ffn_gate\.weight is \(128, 512\)"),
        ({"rope.dimension_count": 16}, "rotates 16 of the 32 values"),
        ({"rope.dimension_count": 64}, "rotates 64 of the 32 values"),
        ({"attention.key_length": 31, "rope.dimension_count": 31}, "rotates 31 of the 31 values"),
        ({"attention.key_length": 16, "rope.dimension_count": 16}, r"blk\.0\.attn_q\.weight"),
        ({"block_count": 4}, r"has no tensor blk\.3\.attn_norm\.weight"),
        ({"block_count": 2**31 - 1}, r"has no tensor blk\.3\.attn_norm\.weight"),
        ({"block_count": 2}, r"has a tensor 'blk\.2\.attn_k\.weight', which is no part of llama"),
    ],
    ids=str,
)
def test_sizes_that_do_not_fit(
    image: Any, tmp_path: Path, changes: dict[str, int], message: str
) -> None:
    for key, value in changes.items():
        image.set(f"llama.{key}", UINT32, value)
    if "rope.dimension_count" not in changes and "attention.head_count" in changes:
        image.set("llama.rope.dimension_count", UINT32, 128 // changes["attention.head_count"])
    refused(image, tmp_path, message)


def test_every_required_tensor_is_missed(make_model: Any, gguf_image: Any, tmp_path: Path) -> None:
    optional = {"output.weight", "rope_freqs.weight"}
    for architecture in ("llama", "qwen2", "qwen3"):
        path = make_model(architecture=architecture, llama3_rope=True, n_layers=1)
        names = set(gguf_image.read(path).tensors)
        for name in names:
            image = gguf_image.read(path)
            del image.tensors[name]
            if name in optional:
                assert read(image.write(tmp_path / "model.gguf")).n_layers == 1
            else:
                refused(image, tmp_path, f"has no tensor {re.escape(name)}")


@pytest.mark.parametrize(
    "name",
    [
        "output.weight", "token_embd.weight", "output_norm.weight", "rope_freqs.weight",
        "blk.1.attn_norm.weight", "blk.1.attn_q.weight", "blk.1.attn_v.bias",
        "blk.1.attn_output.weight", "blk.1.attn_output.bias", "blk.1.attn_k_norm.weight",
        "blk.1.ffn_norm.weight", "blk.1.ffn_up.weight", "blk.1.ffn_down.weight",
    ],
)  # fmt: skip
@pytest.mark.parametrize("more", [(32,), (1, 1)])
def test_wrong_shapes(
    make_model: Any, gguf_image: Any, tmp_path: Path, name: str, more: tuple[int, ...]
) -> None:
    """One element too many, or a dimension; also of a tensor that may be missing altogether."""
    architecture = "qwen3" if "k_norm" in name else "llama"
    image = gguf_image.read(make_model(architecture=architecture, llama3_rope=True))
    image.add("blk.1.attn_v.bias", np.zeros(64, np.float32))
    image.add("blk.1.attn_output.bias", np.zeros(128, np.float32))
    assert read(image.write(tmp_path / "model.gguf")).n_layers == 3
    _, shape, _ = image.tensors[name]
    wrong = (*shape[:-1], shape[-1] + more[0]) if len(more) == 1 else (*shape, 2)
    image.add(name, np.zeros(wrong[::-1], np.float32))
    refused(
        image, tmp_path, re.escape(f"{wrong}") if "token_embd" not in name else "token_embd|out"
    )


@pytest.mark.parametrize("kind", ["F16", "BF16", "Q8_0", "I32", "F64"])
def test_vectors_must_be_f32(make_model: Any, gguf_image: Any, tmp_path: Path, kind: str) -> None:
    """ggml would end the process over it: norms, biases and rope factors are f32 in its kernels."""
    number = {"F16": 1, "BF16": 30, "Q8_0": 8, "I32": 26, "F64": 28}[kind]
    for architecture, name in (
        ("llama", "blk.0.attn_norm.weight"), ("llama", "output_norm.weight"),
        ("llama", "blk.2.ffn_norm.weight"), ("llama", "rope_freqs.weight"),
        ("qwen2", "blk.1.attn_q.bias"), ("qwen3", "blk.1.attn_q_norm.weight"),
    ):  # fmt: skip
        image = gguf_image.read(
            make_model(architecture=architecture, llama3_rope=True, head_dim=64)
        )
        _, shape, _ = image.tensors[name]
        image.data += bytes(-len(image.data) % 32)
        image.tensors[name] = (number, shape, len(image.data))
        image.data += bytes(8 * shape[0])
        refused(image, tmp_path, rf"{re.escape(name)} is of the unsupported type {number}")


@pytest.mark.parametrize("kind", [9, 15, 24, 25, 26, 27, 28], ids=lambda kind: f"type {kind}")
def test_matrices_that_ggml_has_no_kernels_for(
    make_model: Any, gguf_image: Any, tmp_path: Path, kind: int
) -> None:
    for name in (
        "token_embd.weight",
        "output.weight",
        "blk.0.attn_k.weight",
        "blk.2.ffn_up.weight",
    ):
        image = gguf_image.read(make_model(hidden=256))
        _, shape, _ = image.tensors[name]
        image.data += bytes(-len(image.data) % 32)
        image.tensors[name] = (kind, shape, len(image.data))
        image.data += bytes(8 * shape[0] * shape[1])
        refused(image, tmp_path, rf"{re.escape(name)} is of the unsupported type {kind}")


@pytest.mark.parametrize(
    "name", ["blk.0.ffn_gate.bias", "blk.0.attn_q_norm.weight", "output.bias", "x\ny", "mtp.0"]
)
def test_tensors_that_would_be_ignored(image: Any, tmp_path: Path, name: str) -> None:
    """A model that has more than we compute would answer nonsense."""
    image.add(name, np.zeros(32, np.float32))
    refused(image, tmp_path, f"unsupported model: .* has a tensor {re.escape(repr(name))}")

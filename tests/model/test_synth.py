"""Synthetic models: valid files, sane weights, little memory, errors of one line."""

from __future__ import annotations

import math
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGMLQuantizationType, GGUFReader, dequantize

from halo_edge.errors import HaloError
from halo_edge.model.gguf_file import GgufFile
from halo_edge.model.hparams import HyperParameters
from halo_edge.model.synth import (
    SHAPES,
    SyntheticShape,
    llama3_rope_factors,
    write_synthetic,
)
from halo_edge.model.synth_blocks import QUANTIZATIONS

MakeModel = Callable[..., Path]


@pytest.mark.parametrize("quantization", [name.lower() for name in QUANTIZATIONS])
def test_weights_have_unit_gain_in_every_quantization(
    make_model: MakeModel, quantization: str
) -> None:
    # Rows of 256 and 512, so that no tensor falls back to Q8_0.
    reader = GGUFReader(make_model(quantization=quantization, hidden=256, head_dim=64))
    matrices = [tensor for tensor in reader.tensors if len(tensor.shape) == 2]
    assert len(matrices) == 2 + 3 * 7
    for tensor in matrices:
        assert tensor.tensor_type.name == quantization.upper()
        weights = dequantize(tensor.data, tensor.tensor_type)
        deviation = 1 / math.sqrt(tensor.shape[0])
        assert weights.std() == pytest.approx(deviation, rel=0.03)
        # Five standard errors of the mean, and what a sign for a whole block adds to it.
        assert abs(weights.mean()) < 6 * deviation / math.sqrt(weights.size)


@pytest.mark.parametrize(
    ("architecture", "sizes", "extra"),
    [
        ("llama", {}, set()),
        ("llama", {"head_dim": 64}, set()),
        ("qwen2", {}, {"attn_q.bias", "attn_k.bias", "attn_v.bias"}),
        ("qwen3", {"head_dim": 64}, {"attn_q_norm.weight", "attn_k_norm.weight"}),
    ],
)
def test_architectures(
    make_model: MakeModel, architecture: str, sizes: dict[str, Any], extra: set[str]
) -> None:
    gguf = GgufFile.open(make_model(architecture=architecture, **sizes))
    params = HyperParameters.from_gguf(gguf)  # which checks every matrix's shape
    assert params.architecture == architecture
    assert (params.n_layers, params.hidden, params.ffn) == (3, 128, 512)
    assert (params.n_heads, params.n_kv_heads) == (4, 2)
    assert params.head_dim == params.rope_dim == sizes.get("head_dim", 32)
    usual = {"attn_norm", "attn_q", "attn_k", "attn_v", "attn_output"}
    usual |= {"ffn_norm", "ffn_gate", "ffn_up", "ffn_down"}
    layer = {name.removeprefix("blk.1.") for name in gguf.tensors if name.startswith("blk.1.")}
    assert layer == {f"{name}.weight" for name in usual} | extra


def test_llama3_file_is_tied_and_has_rope_factors(make_model: MakeModel) -> None:
    gguf = GgufFile.open(make_model(tied=True, llama3_rope=True))
    assert "output.weight" not in gguf.tensors
    factors = gguf.tensor_bytes("rope_freqs.weight").view(np.float32)
    assert factors == pytest.approx(llama3_rope_factors(32, 10000.0))


def test_llama3_rope_factors_run_from_1_to_the_scaling_factor() -> None:
    factors = llama3_rope_factors(64, 500000.0)
    assert factors.shape == (32,)
    assert factors[0] == 1.0 and factors[-1] == 32.0
    assert np.all(np.diff(factors) >= 0)
    # Llama 3.2 1B as converted, llama.cpp's convert_hf_to_gguf.py by hand: frequency 15 of 32.
    wavelength = 2 * math.pi * 500000 ** (30 / 64)
    smooth = (8192 / wavelength - 1) / 3
    assert factors[15] == pytest.approx(1 / ((1 - smooth) / 32 + smooth))
    assert 1 < factors[15] < 32


def test_named_shapes_are_those_of_the_real_models() -> None:
    # Parameters as their publishers count them, without norms: a tenth of a per mille.
    published = {
        "tinyllama-1.1b": 1_100_048_384,
        "llama-3.2-1b": 1_235_814_400,
        "llama-2-7b": 6_738_415_616,
    }
    for name, parameters in published.items():
        assert _matrix_values(SHAPES[name]) == pytest.approx(parameters, rel=1e-4)


def _matrix_values(shape: SyntheticShape) -> int:
    attention = 2 * shape.hidden * shape.head_dim * (shape.n_heads + shape.n_kv_heads)
    layers = shape.n_layers * (attention + 3 * shape.hidden * shape.ffn)
    return layers + shape.hidden * shape.vocab * (1 if shape.tied else 2)


def test_tokenizer_covers_every_byte(tiny_model: Path) -> None:
    metadata = GgufFile.open(tiny_model).metadata
    tokens = metadata["tokenizer.ggml.tokens"]
    assert isinstance(tokens, list)
    assert len(tokens) == len(set(tokens)) == 512
    assert sum(len(token) == 1 for token in tokens) == 256
    merges = metadata["tokenizer.ggml.merges"]
    assert isinstance(merges, list)
    assert {merge.replace(" ", "") for merge in merges} < set(tokens)


def test_rows_that_blocks_do_not_divide_are_q8_0(make_model: MakeModel) -> None:
    gguf = GgufFile.open(make_model(quantization="q6_K"))
    assert gguf.tensor("blk.0.ffn_up.weight").ggml_type == GGMLQuantizationType.Q8_0  # rows of 128
    assert gguf.tensor("blk.0.ffn_down.weight").ggml_type == GGMLQuantizationType.Q6_K  # of 512


def test_the_seed_decides_the_file(tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        write_synthetic("tiny", tmp_path / name, seed=seed)
    a, b, c = ((tmp_path / name).read_bytes() for name in "abc")
    assert a == b
    assert a != c and len(a) == len(c)


def test_memory_does_not_grow_with_the_model(tmp_path: Path) -> None:
    shape = SyntheticShape("llama", 1, 4096, 4096, 32, 32, 128, 1024, 512)
    tracemalloc.start()
    try:
        write_synthetic(shape, tmp_path / "wide.gguf", quantization="q8_0")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    size = (tmp_path / "wide.gguf").stat().st_size
    assert size > 120e6
    assert peak < 40e6  # a piece and its copies


def test_progress_ends_at_the_total(tmp_path: Path) -> None:
    seen: list[tuple[int, int | None]] = []
    write_synthetic("tiny", tmp_path / "m", progress=lambda done, total: seen.append((done, total)))
    done = [d for d, _ in seen]
    assert done == sorted(done)
    assert done[-1] == seen[-1][1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"shape": "gpt-5"}, r"no such shape: gpt-5; there are tiny, "),
        ({"quantization": "q3_x"}, r"no such quantization: q3_x; there are q4_0, "),
        ({"seed": -1}, r"seed -1 is negative"),
        ({"path": "absent/m.gguf"}, r"cannot write .*: No such file or directory"),
        ({"path": "."}, r"cannot write "),
        ({"shape": SyntheticShape("llama", 1, 100, 64, 2, 1, 50, 512, 512)}, r"multiples of 32"),
        ({"shape": SyntheticShape("llama", 1, 64, 64, 2, 1, 32, 200, 512)}, r"vocabulary of 200"),
    ],
)
def test_errors_are_one_line_and_leave_nothing(
    tmp_path: Path, arguments: dict[str, Any], message: str
) -> None:
    arguments = {"shape": "tiny"} | arguments
    target = tmp_path / arguments.pop("path", "m.gguf")
    with pytest.raises(HaloError, match=message) as caught:
        write_synthetic(arguments.pop("shape"), target, **arguments)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_full_disk_is_told_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: _Usage(free=1000))
    with pytest.raises(HaloError, match="not enough disk space"):
        write_synthetic("tiny", tmp_path / "m.gguf")
    assert list(tmp_path.iterdir()) == []


class _Usage:
    def __init__(self, free: int) -> None:
        self.free = free

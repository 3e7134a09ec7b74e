"""The FFN in two halves is the FFN."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGMLQuantizationType
from gguf.quants import dequantize

from halo_edge.compute.context import aligned
from halo_edge.compute.ffn import FfnGraphs, FfnWeights
from halo_edge.compute.rows import Rows
from halo_edge.compute.runtime import Runtime
from halo_edge.compute.tapped_ffn import TappedFfn, dequantised
from halo_edge.compute.weights import Matrix
from halo_edge.model.gguf_file import GgufFile

TOKENS, HIDDEN, NEURONS = 7, 128, 512


@pytest.fixture
def weights(tiny_model: Path) -> list[FfnWeights]:
    gguf = GgufFile.open(tiny_model)
    return [FfnWeights.from_gguf(gguf, layer) for layer in range(3)]


def test_both_halves_are_the_whole(weights: list[FfnWeights]) -> None:
    x, out, whole = (aligned((16, HIDDEN), np.float32) for _ in range(3))
    x[:] = np.random.default_rng(0).standard_normal(x.shape)
    runtime = Runtime(1)
    tapped = TappedFfn(runtime, weights, x, out)
    graphs = FfnGraphs(runtime, [(each,) for each in weights], Rows.f32(x), Rows.f32(whole))
    for layer in range(3):
        for tokens in (1, TOKENS, 16):
            tapped.activate(layer, tokens)
            tapped.project(layer, tokens)
            graphs.run(layer, tokens)
            np.testing.assert_allclose(out[:tokens], whole[:tokens], rtol=1e-5, atol=1e-5)


def test_what_is_between_is_the_activations(make_model: Any) -> None:
    gguf = GgufFile.open(make_model(quantization="f32"))
    weights = [FfnWeights.from_gguf(gguf, 0)]
    x, out = (aligned((TOKENS, HIDDEN), np.float32) for _ in range(2))
    x[:] = np.random.default_rng(0).standard_normal(x.shape)
    tapped = TappedFfn(Runtime(1), weights, x, out)
    tapped.activate(0, TOKENS)
    gate, up = (x @ dequantised(matrix).T for matrix in (weights[0].gate, weights[0].up))
    expected = gate / (1 + np.exp(-gate)) * up
    np.testing.assert_allclose(tapped.activations[:TOKENS], expected, rtol=1e-3, atol=1e-5)
    tapped.activations[:TOKENS, 1:] = 0.0
    tapped.project(0, TOKENS)
    first = expected[:, :1] * dequantised(weights[0].down)[:, 0]
    np.testing.assert_allclose(out, first, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("quantization", ["f32", "f16", "q8_0", "q4_0", "q4_1", "q4_K", "q6_K"])
def test_dequantised_is_what_the_format_says(make_model: Any, quantization: str) -> None:
    gguf = GgufFile.open(make_model(quantization=quantization, hidden=256))
    matrix = Matrix.from_gguf(gguf, "blk.1.ffn_down.weight")
    found = dequantised(matrix)
    assert found.shape == (256, NEURONS)
    expected = dequantize(matrix.bytes_2d(), GGMLQuantizationType(matrix.ggml_type))
    np.testing.assert_allclose(
        found, expected.view(np.float32).reshape(found.shape), rtol=1e-6, atol=1e-7
    )


def test_a_part_of_a_matrix_is_dequantised_alone(weights: list[FfnWeights]) -> None:
    whole = dequantised(weights[0].gate)
    assert (dequantised(weights[0].gate.row_range(5, 9)) == whole[5:9]).all()

"""Both ends of the model: embedding rows, and logits for a range of vocabulary rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGMLQuantizationType
from gguf.quants import dequantize
from numpy.typing import NDArray

from halo_edge.compute.activations import Activations, StepInputs
from halo_edge.compute.context import aligned
from halo_edge.compute.head import build_embedding, build_head
from halo_edge.compute.runtime import Runtime
from halo_edge.model.gguf_file import GgufFile
from halo_edge.model.hparams import HyperParameters

TOKENS = 6


def matrix(gguf: GgufFile, name: str) -> NDArray[np.float32]:
    info = gguf.tensor(name)
    rows = gguf.tensor_bytes(name).reshape(-1, info.row_bytes)
    return dequantize(rows, GGMLQuantizationType(info.ggml_type))


def logits(
    path: Path, vocabulary: range, selected: list[int], acts: Activations
) -> NDArray[np.float32]:
    gguf = GgufFile.open(path)
    out = aligned((len(selected), len(vocabulary)), np.float32)
    build_head(
        Runtime(1), gguf, HyperParameters.from_gguf(gguf), vocabulary,
        np.array(selected, np.int32), acts, out,
    )()  # fmt: skip
    return out


@pytest.fixture
def acts() -> Activations:
    acts = Activations(TOKENS, 128)
    rng = np.random.default_rng(1)
    acts.hidden[:], acts.ffn[:] = rng.standard_normal((2, TOKENS, 128))
    return acts


@pytest.mark.parametrize("quantization", ["f32", "q4_0", "q4_1", "q8_0"])
@pytest.mark.parametrize("tied", [False, True])
def test_ranges_of_the_vocabulary_are_slices_of_the_whole(
    make_model: Any, acts: Activations, quantization: str, tied: bool
) -> None:
    path = make_model(quantization=quantization, tied=tied)
    whole = logits(path, range(512), [1, 4], acts)
    for part in (range(0, 1), range(0, 200), range(200, 511), range(511, 512)):
        # Not quite equal: ggml computes runs of rows with other kernels than single ones.
        np.testing.assert_allclose(
            logits(path, part, [1, 4], acts), whole[:, part.start : part.stop], atol=1e-5
        )


@pytest.mark.parametrize("tied", [False, True])
def test_formula(make_model: Any, acts: Activations, tied: bool) -> None:
    path = make_model(quantization="f32", tied=tied)
    gguf = GgufFile.open(path)
    h = acts.hidden + acts.ffn
    h = h / np.sqrt(np.mean(h**2, axis=1, keepdims=True) + 1e-5)
    norm = gguf.tensor_bytes("output_norm.weight").view(np.float32)
    head = matrix(gguf, "token_embd.weight" if tied else "output.weight")
    expected = (h * norm) @ head.T
    selected = [5, 0, 3]
    np.testing.assert_allclose(
        logits(path, range(512), selected, acts), expected[selected], atol=2e-5
    )


@pytest.mark.parametrize("quantization", ["f32", "f16", "q4_0", "q4_1", "q8_0", "q4_K", "q6_K"])
def test_embedding(make_model: Any, quantization: str) -> None:
    gguf = GgufFile.open(make_model(quantization=quantization, hidden=256))
    acts, inputs = Activations(4, 256), StepInputs(4, 256)
    inputs.tokens[:3] = [511, 0, 77]
    acts.hidden[:] = 9
    build_embedding(Runtime(1), gguf, 3, acts, inputs)()
    table = matrix(gguf, "token_embd.weight")
    np.testing.assert_allclose(acts.hidden[:3], table[[511, 0, 77]], atol=1e-6)
    assert (acts.hidden[3] == 9).all()

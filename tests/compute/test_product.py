"""A product with a weight matrix, repacked or not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from gguf import GGMLQuantizationType
from gguf.quants import dequantize

from halo_edge.compute.product import multiply
from halo_edge.compute.runtime import Runtime
from halo_edge.compute.weights import Matrix
from halo_edge.model.gguf_file import GgufFile


@pytest.mark.parametrize("repack", [True, False])
def test_product(tiny_model: Path, repack: bool) -> None:
    matrix = Matrix.from_gguf(GgufFile.open(tiny_model), "blk.0.ffn_down.weight")
    values = dequantize(matrix.bytes_2d(), GGMLQuantizationType(matrix.ggml_type))
    vectors = np.random.default_rng(0).standard_normal((5, matrix.columns), np.float32)
    found, exact = multiply(Runtime(1, repack=repack), matrix, vectors), vectors @ values.T
    assert np.sqrt(np.mean((found - exact) ** 2) / np.mean(exact**2)) < 0.02

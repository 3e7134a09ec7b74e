"""Gathered columns: the right ones, in every type, with no more lost than the type costs."""

from __future__ import annotations

import ggml
import numpy as np
import pytest
from gguf import GGMLQuantizationType as Type
from gguf.quants import dequantize
from numpy.typing import NDArray

from halo_edge.compute.requantise import DownType, gather_columns
from halo_edge.compute.weights import Matrix
from halo_edge.model.gguf_file import WEIGHT_TYPES
from halo_edge.model.synth_blocks import random_blocks

ROWS, COLUMNS = 700, 768  # more rows than are dequantised at a time


def stored(quantization: str) -> tuple[Matrix, NDArray[np.float32]]:
    """A random matrix and its values."""
    kind = Type[quantization]
    blocks = random_blocks(np.random.default_rng(5), kind.name, ROWS * COLUMNS, deviation=1.0)
    data = np.frombuffer(blocks.tobytes(), np.uint8)
    return Matrix.whole(data, kind, ROWS, COLUMNS), dequantize(data.reshape(ROWS, -1), kind)


def error(found: Matrix, expected: NDArray[np.float32]) -> float:
    assert (found.rows, found.columns) == expected.shape
    values = dequantize(found.bytes_2d(), Type(found.ggml_type))
    return float(np.sqrt(np.mean((values - expected) ** 2) / np.mean(expected**2)))


PARTS = [
    np.random.default_rng(1).permutation(COLUMNS)[:256],
    np.arange(64, 320),
    np.arange(COLUMNS)[::-1],
]


# Of the values' rms. The largest of 32 is some 1.7 of it, a step 1/127 of that, and an error up to
# half a step, evenly spread: 0.004.
@pytest.mark.parametrize("quantization", ["Q4_0", "Q4_1", "Q4_K", "Q6_K", "Q8_0"])
def test_as_q8_0(quantization: str) -> None:
    matrix, values = stored(quantization)
    for found, columns in zip(gather_columns(matrix, PARTS, DownType.Q8_0), PARTS, strict=True):
        assert found.ggml_type == Type.Q8_0
        assert 0 < error(found, values[:, columns]) < 0.006


@pytest.mark.parametrize("down", DownType)
@pytest.mark.parametrize("quantization", ["F32", "F16"])
def test_without_blocks_nothing_is_lost(quantization: str, down: DownType) -> None:
    matrix, values = stored(quantization)
    for found, columns in zip(gather_columns(matrix, PARTS, down), PARTS, strict=True):
        assert found.ggml_type == Type[quantization]
        assert error(found, values[:, columns]) == 0


@pytest.mark.parametrize(("quantization", "tolerance"), [("Q4_0", 0.15), ("Q4_K", 0.15)])
def test_as_the_same_type(quantization: str, tolerance: float) -> None:
    matrix, values = stored(quantization)
    (found,) = gather_columns(matrix, PARTS[:1], DownType.SAME)
    assert found.ggml_type == Type[quantization]
    assert 0 < error(found, values[:, PARTS[0]]) < tolerance


@pytest.mark.parametrize(
    ("quantization", "columns", "kind"), [("Q4_K", 64, Type.Q8_0), ("Q4_0", 40, Type.F16)]
)
def test_columns_that_do_not_fill_blocks(quantization: str, columns: int, kind: Type) -> None:
    matrix, values = stored(quantization)
    (found,) = gather_columns(matrix, [PARTS[0][:columns]], DownType.SAME)
    assert found.ggml_type == kind
    assert error(found, values[:, PARTS[0][:columns]]) < 0.006


@pytest.mark.parametrize("kind", sorted(WEIGHT_TYPES))
def test_every_type_can_be_gathered(kind: int) -> None:
    """Also those that ggml cannot quantise to: it would end this process."""
    data = np.zeros(4 * ggml.ggml_row_size(kind, 512), np.uint8)
    matrix = Matrix.whole(data, kind, 4, 512)
    (found,) = gather_columns(matrix, [np.arange(512)[::-1]], DownType.SAME)
    assert (found.rows, found.columns) == (4, 512)


def test_a_range_of_rows() -> None:
    matrix, values = stored("Q4_0")
    (found,) = gather_columns(matrix.row_range(3, 9), PARTS[:1], DownType.Q8_0)
    assert error(found, values[3:9, PARTS[0]]) < 0.006

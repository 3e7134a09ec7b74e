"""Rectangles of stored matrices, and ggml's kernels for every type we let in."""

from __future__ import annotations

import ctypes
from pathlib import Path

import ggml
import numpy as np
import pytest
from gguf import GGMLQuantizationType
from gguf.constants import GGML_QUANT_SIZES
from gguf.quants import dequantize
from numpy.typing import NDArray

from halo_edge.compute.context import GraphContext, aligned
from halo_edge.compute.runtime import Arena, Graph, Runtime
from halo_edge.compute.weights import Matrix, vector
from halo_edge.errors import HaloError
from halo_edge.model.gguf_file import WEIGHT_TYPES, GgufFile
from halo_edge.model.synth_blocks import random_blocks


def stored(quantization: str, rows: int, columns: int) -> tuple[Matrix, NDArray[np.float32]]:
    """A random matrix and its values."""
    kind = GGMLQuantizationType[quantization]
    blocks = random_blocks(np.random.default_rng(5), kind.name, rows * columns, deviation=1.0)
    data = np.frombuffer(blocks.tobytes(), np.uint8)
    return Matrix.whole(data, kind, rows, columns), dequantize(data.reshape(rows, -1), kind)


def product(matrix: Matrix, x: NDArray[np.float32]) -> NDArray[np.float32]:
    """f32[len(x), rows] by ggml."""
    c = GraphContext()
    inp = c.external(ggml.GGML_TYPE_F32, (x.shape[1], len(x)), x)
    out = aligned((len(x), matrix.rows), np.float32)
    c.store(ggml.ggml_mul_mat(c.ctx, matrix.tensor(c), inp), out)
    Graph(Runtime(1), c, Arena())()
    return out


@pytest.mark.parametrize("quantization", ["F32", "F16", "Q4_0", "Q4_1", "Q8_0", "Q4_K", "Q6_K"])
@pytest.mark.parametrize(
    ("rows", "columns"), [((0, 96), (0, 768)), ((32, 96), (0, 768)), ((5, 70), (256, 768))]
)
def test_rectangles(quantization: str, rows: tuple[int, int], columns: tuple[int, int]) -> None:
    whole, values = stored(quantization, 96, 768)
    part = whole.row_range(*rows).column_range(*columns)
    assert part is not None
    expected = values[slice(*rows), slice(*columns)]

    kind = GGMLQuantizationType[quantization]
    packed = np.ascontiguousarray(part.bytes_2d())
    assert np.array_equal(dequantize(packed, kind), expected)
    assert np.shares_memory(part.bytes_2d(), whole.data)

    x = np.random.default_rng(1).standard_normal((3, expected.shape[1])).astype(np.float32)
    result, exact = product(part, x), x @ expected.T
    # 0.01 and less is what rounding x to 8 bits costs; a wrong block costs 1 and more.
    assert np.sqrt(np.mean((result - exact) ** 2) / np.mean(exact**2)) < 0.03


def test_range_of_a_range() -> None:
    whole, values = stored("Q8_0", 64, 128)
    part = whole.row_range(10, 50).row_range(5, 20).column_range(32, 128)
    assert part is not None
    part = part.column_range(32, 64)
    assert part is not None
    packed = np.ascontiguousarray(part.bytes_2d())
    assert np.array_equal(dequantize(packed, GGMLQuantizationType.Q8_0), values[15:30, 64:96])


@pytest.mark.parametrize(("quantization", "block"), [("Q4_0", 32), ("Q4_K", 256), ("F16", 1)])
def test_column_range_does_not_cut_blocks(quantization: str, block: int) -> None:
    whole, _ = stored(quantization, 4, 768)
    for start, stop in ((0, 64), (256, 512), (256, 257), (31, 64)):
        cuts = start % block or stop % block
        assert (whole.column_range(start, stop) is None) == bool(cuts)


def test_whole_needs_exactly_its_bytes() -> None:
    for size in (17, 19):
        with pytest.raises(ValueError, match="1 x 32 of type 2"):
            Matrix.whole(np.zeros(size, np.uint8), GGMLQuantizationType.Q4_0, 1, 32)


def test_from_gguf(tiny_model: Path) -> None:
    gguf = GgufFile.open(tiny_model)
    matrix = Matrix.from_gguf(gguf, "blk.0.ffn_down.weight")
    assert (matrix.rows, matrix.columns) == (128, 512)
    assert np.shares_memory(matrix.data, gguf.data)
    with pytest.raises(HaloError, match=r"has no tensor blk\.9"):
        Matrix.from_gguf(gguf, "blk.9.ffn_down.weight")
    assert vector(GraphContext(), gguf, "blk.0.attn_q.bias") is None


@pytest.mark.parametrize(
    "ggml_type", sorted(WEIGHT_TYPES), ids=lambda t: GGMLQuantizationType(t).name
)
def test_ggml_computes_with_every_type_we_let_in(ggml_type: int) -> None:
    """Products and embedding rows; for a type that it cannot it would end this process."""
    assert GGML_QUANT_SIZES[GGMLQuantizationType(ggml_type)] == (
        ggml.ggml_blck_size(ggml_type),
        ggml.ggml_type_size(ggml_type),
    )
    row_bytes = ggml.ggml_row_size(ggml_type, 256)
    data = np.zeros(4 * row_bytes, np.uint8)
    matrix = Matrix.whole(data, ggml_type, 4, 256)
    x = np.ones((2, 256), np.float32)
    assert np.isfinite(product(matrix, x)).all()
    c, out = GraphContext(), aligned((1, 256), np.float32)
    ids = c.external(ggml.GGML_TYPE_I32, (1,), np.array([3], np.int32))
    c.store(ggml.ggml_get_rows(c.ctx, matrix.tensor(c), ids), out)
    Graph(Runtime(1), c, Arena())()
    assert np.isfinite(out).all()


def test_no_type_with_kernels_is_left_out() -> None:
    address = lambda pointer: ctypes.cast(pointer, ctypes.c_void_p).value  # noqa: E731
    usable = {
        kind
        for kind in range(ggml.GGML_TYPE_COUNT)
        if address(ggml.ggml_get_type_traits_cpu(kind).contents.vec_dot)
        and (address(ggml.ggml_get_type_traits(kind).contents.to_float) or kind == 0)
    }
    assert usable == WEIGHT_TYPES

"""Repacked weights: the same products, no second copy, and what has no kernel stays."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ggml
import numpy as np
import pytest
from numpy.typing import NDArray

from halo_edge.compute.context import GraphContext, aligned
from halo_edge.compute.mapped import drop_mapped_pages
from halo_edge.compute.runtime import Arena, Graph, Runtime
from halo_edge.compute.weights import Matrix
from halo_edge.model.gguf_file import GgufFile


def up_weights(path: Path) -> Matrix:
    return Matrix.from_gguf(GgufFile.open(path), "blk.0.ffn_up.weight")


def product(runtime: Runtime, matrix: Matrix, x: NDArray[np.float32]) -> NDArray[np.float32]:
    out: NDArray[np.float32] = aligned((len(x), matrix.rows), np.float32)
    c = GraphContext()
    inp = c.external(ggml.GGML_TYPE_F32, (matrix.columns, len(x)), x)
    c.store(runtime.weights.multiply(c, matrix, inp), out)
    Graph(runtime, c, Arena())()
    return out


def some_x(tokens: int, width: int) -> NDArray[np.float32]:
    x: NDArray[np.float32] = aligned((tokens, width), np.float32)
    x[:] = np.random.default_rng(3).standard_normal(x.shape)
    return x


@pytest.mark.parametrize("tokens", [1, 3, 4, 9])
@pytest.mark.parametrize("quantization", ["q4_0", "q4_1", "q4_K", "q8_0", "f16"])
def test_products_are_the_same(make_model: Any, quantization: str, tokens: int) -> None:
    """Both round x to 8 bits, in blocks of their own: close, not equal."""
    matrix = up_weights(make_model(quantization=quantization, hidden=256, n_layers=1))
    for part in (matrix, matrix.row_range(64, 192)):
        x = some_x(tokens, 256)
        plain = product(Runtime(1, repack=False), part, x)
        found = product(Runtime(1), part, x)
        assert np.abs(found - plain).max() < 2e-3 * np.abs(plain).max()


def test_a_column_range_is_packed(make_model: Any) -> None:
    """Its rows lie apart in the file; the products are those of the whole with the rest at 0."""
    matrix = up_weights(make_model(quantization="q4_0", hidden=256, n_layers=1))
    part = matrix.column_range(64, 128)
    assert part is not None
    x = some_x(2, 256)
    x[:, :64] = x[:, 128:] = 0
    small = aligned((2, 64), np.float32)
    small[:] = x[:, 64:128]
    whole = product(Runtime(1), matrix, x)
    assert np.abs(product(Runtime(1), part, small) - whole).max() < 2e-3 * np.abs(whole).max()


@pytest.mark.parametrize("tokens", [1, 5])
def test_in_place_a_column_range_is_not_copied(
    make_model: Any, monkeypatch: pytest.MonkeyPatch, tokens: int
) -> None:
    matrix = up_weights(make_model(quantization="q4_0", hidden=256, n_layers=1))
    part = matrix.column_range(64, 128)
    assert part is not None
    packed, x = part.contiguous(), some_x(tokens, 64)
    expected = product(Runtime(1, repack=False), packed, x)

    def never(_: Matrix) -> Matrix:
        raise AssertionError("copied")

    monkeypatch.setattr(Matrix, "contiguous", never)
    np.testing.assert_allclose(product(Runtime(1, repack=False), part, x), expected, rtol=1e-5)


def test_a_matrix_is_repacked_once(make_model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    matrix = up_weights(make_model(quantization="q4_0", hidden=256, n_layers=1))
    runtime, x = Runtime(1), some_x(1, 256)
    first = product(runtime, matrix, x)

    def never(*_: object) -> None:
        raise AssertionError("repacked again")

    monkeypatch.setattr(ggml, "ggml_backend_buft_alloc_buffer", never)
    assert (product(runtime, matrix, x) == first).all()


def test_dropping_pages_keeps_the_bytes(make_model: Any) -> None:
    matrix = up_weights(make_model(quantization="q4_0", hidden=256, n_layers=1))
    before = matrix.bytes_2d().copy()
    drop_mapped_pages(matrix.data)
    assert (matrix.bytes_2d() == before).all()
    own = np.arange(10_000, dtype=np.uint8)
    drop_mapped_pages(own)  # nobody could bring these back
    assert own[9_999] == 9_999 % 256

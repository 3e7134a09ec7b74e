"""Matrices in pieces: their products are those of the whole."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from halo_edge.compute.context import aligned
from halo_edge.compute.ffn import FfnGraphs, FfnWeights
from halo_edge.compute.joined import Along, Joined, joined
from halo_edge.compute.product import multiply
from halo_edge.compute.requantise import DownType, gather_columns
from halo_edge.compute.rows import Rows
from halo_edge.compute.runtime import Runtime
from halo_edge.compute.weights import Matrix
from halo_edge.model.gguf_file import GgufFile

CUTS = ((0, 64), (64, 96), (96, 512))


@pytest.fixture(params=["q4_0", "q8_0", "f32"])
def whole(request: pytest.FixtureRequest, make_model: Callable[..., Path]) -> FfnWeights:
    return FfnWeights.from_gguf(GgufFile.open(make_model(quantization=request.param)), 1)


def rows_of(matrix: Matrix) -> list[Matrix]:
    return [matrix.row_range(start, stop) for start, stop in CUTS]


def columns_of(matrix: Matrix) -> list[Matrix]:
    found = [matrix.column_range(start, stop) for start, stop in CUTS]
    return [part for part in found if part is not None]


@pytest.mark.parametrize("repack", [True, False])
@pytest.mark.parametrize("vectors", [1, 5])
def test_products(whole: FfnWeights, repack: bool, vectors: int) -> None:
    random = np.random.default_rng(1)
    for matrix, parts, along in (
        (whole.gate, rows_of(whole.gate), Along.ROWS),
        (whole.down, columns_of(whole.down), Along.COLUMNS),
    ):
        x = random.standard_normal((vectors, matrix.columns)).astype(np.float32)
        expected = multiply(Runtime(1, repack=repack), matrix, x)
        pieces = joined(parts, along)
        assert (pieces.rows, pieces.columns) == (matrix.rows, matrix.columns)
        found = multiply(Runtime(1, repack=repack), pieces, x)
        np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("repack", [True, False])
@pytest.mark.parametrize("vectors", [2, 6])
def test_columns_of_different_types(whole: FfnWeights, repack: bool, vectors: int) -> None:
    """As where a cut tile had to be quantised anew."""
    first, *rest = columns_of(whole.down)
    (cut,) = gather_columns(whole.down, [np.arange(64)], DownType.Q8_0)
    pieces = joined([cut, *rest], Along.COLUMNS)
    x = np.random.default_rng(2).standard_normal((vectors, 512)).astype(np.float32)
    expected = multiply(Runtime(1), whole.down, x)
    found = multiply(Runtime(1, repack=repack), pieces, x)
    assert np.abs(found - expected).max() < 0.01 * np.abs(expected).max()
    if cut.ggml_type != first.ggml_type:
        assert isinstance(pieces, Joined)
        with pytest.raises(ValueError, match="different types"):
            pieces.contiguous()


@pytest.mark.parametrize("tokens", [1, 4])
@pytest.mark.parametrize("repack", [True, False])
@pytest.mark.parametrize("joins", [True, False])
def test_the_ffn_of_tiles(whole: FfnWeights, joins: bool, repack: bool, tokens: int) -> None:
    tiles = [
        FfnWeights(*each)
        for each in zip(rows_of(whole.gate), rows_of(whole.up), columns_of(whole.down), strict=True)
    ]
    x, out = aligned((tokens, 128), np.float32), aligned((tokens, 128), np.float32)
    x[:] = np.random.default_rng(3).standard_normal(x.shape)
    answers = []
    for weights in ([whole], tiles, tiles[:1]):
        runtime = Runtime(1, repack=repack, joins=joins)
        assert FfnGraphs(runtime, [weights], Rows.f32(x), Rows.f32(out)).run(0, tokens)
        answers.append(out.copy())
    expected, found, part = answers
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())
    assert np.abs(part - expected).max() > 0.01 * np.abs(expected).max()


def test_the_same_pieces_are_placed_once(whole: FfnWeights) -> None:
    one, same = (joined(rows_of(whole.gate), Along.ROWS) for _ in range(2))
    assert one.key == same.key
    assert one.key != joined(rows_of(whole.up), Along.ROWS).key
    np.testing.assert_array_equal(one.bytes_2d(), whole.gate.bytes_2d())
    np.testing.assert_array_equal(one.contiguous().data, whole.gate.data)


def test_pieces_that_do_not_fit(whole: FfnWeights) -> None:
    assert joined([whole.gate], Along.ROWS) is whole.gate
    with pytest.raises(ValueError, match="do not make"):
        joined([whole.gate, whole.down], Along.ROWS)
    with pytest.raises(ValueError, match="do not make"):
        joined([whole.gate, whole.down], Along.COLUMNS)
    (other,) = gather_columns(whole.gate, [np.arange(128)], DownType.Q8_0)
    if other.ggml_type != whole.gate.ggml_type:
        with pytest.raises(ValueError, match="one type"):
            joined([whole.gate, other], Along.ROWS)

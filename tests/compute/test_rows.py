"""Graphs read and write rows in every format that vectors travel in."""

from __future__ import annotations

import ggml
import numpy as np
import pytest
from numpy.typing import NDArray

from halo_edge.compute.context import GraphContext
from halo_edge.compute.rows import Rows
from halo_edge.compute.runtime import Arena, Graph, Runtime
from halo_edge.compute.wire import WireCodec, WireFormat

WIDTH = 64


def room(wire: WireFormat | None, rows: int) -> tuple[Rows, NDArray[np.uint8]]:
    """Rows in `wire`, or f32 for None, and their bytes."""
    if wire is None:
        values = np.zeros((rows, WIDTH), np.float32)
        return Rows.f32(values), values.reshape(-1).view(np.uint8)
    codec = WireCodec(wire, WIDTH)
    encoded = bytearray(rows * codec.row_bytes)
    return codec.rows(memoryview(encoded)), np.frombuffer(encoded, np.uint8)


def copy(source: Rows, target: Rows, tokens: int) -> None:
    c = GraphContext()
    target.write(c, ggml.ggml_scale(c.ctx, source.read(c, tokens), 1.0), tokens)
    Graph(Runtime(1), c, Arena())()


@pytest.fixture
def values() -> NDArray[np.float32]:
    return np.random.default_rng(0).standard_normal((4, WIDTH), np.float32)


@pytest.mark.parametrize("wire", WireFormat)
def test_graphs_encode_as_the_encoder_does(wire: WireFormat, values: NDArray[np.float32]) -> None:
    encoded, raw = room(wire, 4)
    copy(Rows.f32(values), encoded, 4)
    assert bytes(raw) == bytes(WireCodec(wire, WIDTH).encoder(values).encode(4))


@pytest.mark.parametrize("wire", [None, *WireFormat])
def test_only_the_first_rows(wire: WireFormat | None, values: NDArray[np.float32]) -> None:
    encoded, raw = room(wire, 4)
    size = len(raw) // 4
    copy(Rows.f32(values), encoded, 4)
    whole = bytes(raw)
    encoded.clear(2)
    assert bytes(raw) == bytes(2 * size) + whole[2 * size :]
    out = np.full((4, WIDTH), 7, np.float32)
    copy(encoded, Rows.f32(out), 3)
    assert not out[:2].any()
    np.testing.assert_allclose(out[2], values[2], atol=0.02)
    assert (out[3] == 7).all()
    raw[:] = 255
    copy(Rows.f32(values), encoded, 1)
    assert bytes(raw) == whole[:size] + b"\xff" * 3 * size


@pytest.mark.parametrize("wire", [None, *WireFormat])
def test_rows_too_many(wire: WireFormat | None) -> None:
    encoded, _ = room(wire, 2)
    with pytest.raises(ValueError, match="does not fit"):
        encoded.read(GraphContext(), 3)

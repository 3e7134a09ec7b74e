"""Vectors through the wire formats and back."""

from __future__ import annotations

import ggml
import numpy as np
import pytest
from gguf import GGMLQuantizationType
from gguf.quants import dequantize, quantize
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from halo_edge.compute.context import GraphContext
from halo_edge.compute.runtime import Arena, Graph, Runtime
from halo_edge.compute.wire import Wire, WireCodec, WireFormat
from halo_edge.errors import HaloError

F16_MAX = 65504.0


def decode(codec: WireCodec, encoded: memoryview, rows: int) -> NDArray[np.float32]:
    """As a graph reads them."""
    c = GraphContext()
    out = np.full((rows, codec.width), np.nan, np.float32)
    # Scaled by 1, as reading alone would leave nothing to compute for f32.
    c.store(ggml.ggml_scale(c.ctx, codec.rows(encoded).read(c, rows), 1.0), out)
    Graph(Runtime(1), c, Arena())()
    return out


def round_trip(wire: WireFormat, values: NDArray[np.float32]) -> NDArray[np.float32]:
    rows, width = values.shape
    codec = WireCodec(wire, width)
    return decode(codec, codec.encoder(values).encode(rows), rows)


@st.composite
def vectors(draw: st.DrawFn, largest: float) -> NDArray[np.float32]:
    """A few rows of multiples of 32 values, of very different sizes from block to block."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    rows, blocks = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    size = 10.0 ** rng.uniform(-6, np.log10(largest), (rows, blocks, 1))
    values = rng.uniform(-1, 1, (rows, blocks, 32)) * size
    values[rng.random(values.shape) < draw(st.sampled_from([0.0, 0.5, 1.0]))] = 0
    return values.reshape(rows, -1).astype(np.float32)


@given(vectors(F16_MAX))
def test_f16_error(values: NDArray[np.float32]) -> None:
    """Half a unit in the last of 11 bits; half of 2^-24 where f16 has no smaller exponent."""
    error = np.abs(round_trip(WireFormat.F16, values) - values)
    assert (error <= np.maximum(np.abs(values) * 2.0**-11, 2.0**-25)).all()


@given(vectors(1e6))
def test_q8_0_error(values: NDArray[np.float32]) -> None:
    """Half a step of 1/127 of the block's largest value, and the rounding of that step to f16."""
    blocks = values.reshape(-1, 32)
    largest = np.abs(blocks).max(axis=1, keepdims=True)
    error = np.abs(round_trip(WireFormat.Q8_0, values).reshape(-1, 32) - blocks)
    step_error = np.maximum(largest / 127 * 2.0**-11, 2.0**-25)
    assert (error <= largest / 254 * 1.001 + 127 * step_error).all()


@pytest.mark.parametrize("wire", WireFormat)
def test_decoding_gives_what_a_graph_reads(wire: WireFormat) -> None:
    values = np.random.default_rng(4).standard_normal((5, 96)).astype(np.float32) * 30
    codec = WireCodec(wire, 96)
    encoded = codec.encoder(values).encode(5)
    assert np.array_equal(codec.decode(encoded, 3), decode(codec, encoded, 3))


def test_f16_is_exact_where_f16_is() -> None:
    bits = np.arange(1 << 16, dtype=np.uint16)
    finite = bits.view(np.float16)[np.isfinite(bits.view(np.float16))].astype(np.float32)
    finite = finite[: len(finite) // 64 * 64].reshape(-1, 64)
    assert np.array_equal(round_trip(WireFormat.F16, finite), finite)


def test_q8_0_is_exact_on_whole_steps() -> None:
    steps = np.random.default_rng(0).integers(-127, 128, (3, 96)).astype(np.float32)
    steps[:, ::32] = 127  # each block's largest, so that the step is what it is meant to be
    for scale in (2.0**-10, 0.25, 1.0, 512.0):
        assert np.array_equal(round_trip(WireFormat.Q8_0, steps * scale), steps * scale)
    assert np.array_equal(round_trip(WireFormat.Q8_0, 0 * steps), 0 * steps)


def test_q8_0_is_the_files_format() -> None:
    """Any other reader of GGUF's Q8_0 would understand it."""
    values = np.random.default_rng(0).standard_normal((5, 64)).astype(np.float32)
    encoded = np.frombuffer(WireCodec(WireFormat.Q8_0, 64).encoder(values).encode(5), np.uint8)
    kind = GGMLQuantizationType.Q8_0
    theirs = dequantize(quantize(values, kind), kind)
    np.testing.assert_allclose(dequantize(encoded.reshape(5, -1), kind), theirs, atol=0.03)
    assert np.array_equal(
        dequantize(encoded.reshape(5, -1), kind), round_trip(WireFormat.Q8_0, values)
    )


def test_beyond_the_range_of_f16() -> None:
    """As WireCodec says: infinite, and not some large number that looks as if nothing happened."""
    values = np.zeros((1, 64), np.float32)
    values[0, :4] = [65519, 65520, 1e6, -1e9]
    assert list(round_trip(WireFormat.F16, values)[0, :4]) == [F16_MAX, np.inf, np.inf, -np.inf]
    values[0, :4] = [23_860, 8e6, -8e6, 1]  # a shared scale of 8e6 / 127 is still an f16
    decoded = round_trip(WireFormat.Q8_0, values)
    assert np.abs(decoded - values).max() <= 8e6 / 254 * 1.13  # the scale has 11 bits
    values[0, 1] = 1e7
    assert not np.isfinite(round_trip(WireFormat.Q8_0, values)[0, :32]).any()
    assert not round_trip(WireFormat.Q8_0, values)[0, 32:].any()  # other blocks do not suffer


@pytest.mark.parametrize("wire", WireFormat)
def test_encoder(wire: WireFormat) -> None:
    """It encodes what the array holds now, as many rows as asked for, into the same memory."""
    codec, values = WireCodec(wire, 32), np.zeros((3, 32), np.float32)
    encoder = codec.encoder(values)
    first = encoder.encode(3)
    assert not any(first)
    values[:] = 127
    second = encoder.encode(2)
    assert (len(first), len(second)) == (3 * codec.row_bytes, 2 * codec.row_bytes)
    assert (decode(codec, second, 2) == 127).all()
    assert first[: len(second)] == second
    assert not any(first[len(second) :])
    with pytest.raises(ValueError, match="rows of 64 values, the codec is for 32"):
        codec.encoder(np.zeros((3, 64), np.float32))


def test_what_wire_names() -> None:
    assert {wire.value: (wire.x.value, wire.partial.value) for wire in Wire} == {
        "mixed": ("q8_0", "f16"),
        "q8_0": ("q8_0", "q8_0"),
        "f16": ("f16", "f16"),
    }


def test_sizes() -> None:
    assert (
        WireCodec(WireFormat.Q8_0, 576).row_bytes,
        WireCodec(WireFormat.F16, 576).row_bytes,
    ) == (
        612,
        1152,
    )
    with pytest.raises(HaloError, match="divisible by 32, this model has 100; use --wire f16"):
        WireCodec(WireFormat.Q8_0, 100)
    assert WireCodec(WireFormat.F16, 100).row_bytes == 200

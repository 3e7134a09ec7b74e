"""Number formats in which vectors cross the network, converted by ggml's own kernels.

A row of H values is H/32 blocks of 34 bytes (Q8_0: an f16 scale and 32 signed bytes) or H f16
values. Encoded rows lie one behind the other, so any run of whole blocks can travel alone.

A value beyond f16's range (65504; for Q8_0, 127 times as much in a block's scale) arrives as an
infinity or NaN, and the sampler then reports logits that are not finite. Nothing is clipped: a
wrong answer that looks right would be worse, and the largest values known (attention sinks) are
1e4.
"""

from __future__ import annotations

import ctypes
from enum import Enum
from typing import Any, Final

import ggml
import numpy as np
from numpy.typing import NDArray

from halo_edge.compute.rows import Rows
from halo_edge.errors import HaloError


class WireFormat(Enum):
    """How a row of values travels."""

    Q8_0 = "q8_0"
    F16 = "f16"


class Wire(Enum):
    """What `--wire` names: the formats of x and of the partials.

    MIXED because x loses nothing as Q8_0 (ggml quantises it just so before it multiplies it with
    quantised weights), and partials do: their sum runs through all later layers. docs/RESULTS.md
    has the perplexities.
    """

    MIXED = "mixed"
    Q8_0 = "q8_0"
    F16 = "f16"

    @property
    def x(self) -> WireFormat:
        return WireFormat.F16 if self is Wire.F16 else WireFormat.Q8_0

    @property
    def partial(self) -> WireFormat:
        return WireFormat.Q8_0 if self is Wire.Q8_0 else WireFormat.F16


_TYPES: Final = {WireFormat.Q8_0: ggml.GGML_TYPE_Q8_0, WireFormat.F16: ggml.GGML_TYPE_F16}
_BLOCKS: Final = {WireFormat.Q8_0: (32, 34), WireFormat.F16: (1, 2)}  # values, bytes


class WireCodec:
    """Encodes rows of `width` values. Raises `HaloError` if the format cannot carry that width."""

    def __init__(self, wire: WireFormat, width: int) -> None:
        values, self.block_bytes = _BLOCKS[wire]
        if width % values:
            raise HaloError(
                f"--wire {wire.value} needs a hidden size divisible by {values}, "
                f"this model has {width}; use --wire f16"
            )
        self.width = width
        self.row_bytes = width // values * self.block_bytes
        self._type = _TYPES[wire]

    def rows(self, encoded: memoryview) -> Rows:
        """Encoded rows that lie in `encoded`, for graphs to read and write."""
        return Rows(self._type, self.width, np.frombuffer(encoded, np.uint8))

    def decode(self, encoded: memoryview, rows: int) -> NDArray[np.float32]:
        """The first `rows` rows of what is `encoded`: f32[rows, width], a copy."""
        data = np.frombuffer(encoded, np.uint8, rows * self.row_bytes)
        if self._type == ggml.GGML_TYPE_F16:
            return data.view(np.float16).reshape(rows, self.width).astype(np.float32)
        blocks = data.reshape(-1, self.block_bytes)
        scales = np.ascontiguousarray(blocks[:, :2]).view(np.float16).astype(np.float32)
        return (blocks[:, 2:].view(np.int8) * scales).reshape(rows, self.width)

    def encoder(self, values: NDArray[np.float32]) -> RowEncoder:
        """Encodes rows of `values`: f32[rows, width], into memory of its own."""
        if values.shape[1] != self.width:
            raise ValueError(f"rows of {values.shape[1]} values, the codec is for {self.width}")
        # Through its address: the bindings' typed pointers cost more than the work.
        function = ggml.ggml_get_type_traits_cpu(self._type).contents.from_float
        return RowEncoder(function, values, self.row_bytes)


class RowEncoder:
    """Encodes the first rows of an array that stays where it is.

    The addresses are looked up once: asking numpy for one takes longer than encoding a row.
    """

    def __init__(self, function: Any, values: NDArray[np.float32], row_bytes: int) -> None:
        prototype = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)
        self._encode = prototype(ctypes.cast(function, ctypes.c_void_p).value or 0)
        self._width = values.shape[1]
        self._row_bytes = row_bytes
        self._encoded = np.zeros(len(values) * row_bytes, np.uint8)
        self._view = self._encoded.data
        self._values = values
        self._from: int = values.ctypes.data
        self._to: int = self._encoded.ctypes.data

    @property
    def memory(self) -> memoryview:
        """Where rows are encoded to: u8[all rows * row_bytes], which stays where it is."""
        return self._view

    def encode(self, rows: int) -> memoryview:
        """u8[rows * row_bytes], valid until the next call."""
        self._encode(self._from, self._to, rows * self._width)
        return self._view[: rows * self._row_bytes]

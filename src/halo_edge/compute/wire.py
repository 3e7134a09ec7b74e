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
from typing import Final

import ggml
import numpy as np
from numpy.typing import NDArray

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
    """Converts rows of `width` values. Raises `HaloError` if the format cannot carry that width."""

    def __init__(self, wire: WireFormat, width: int) -> None:
        values, self.block_bytes = _BLOCKS[wire]
        if width % values:
            raise HaloError(
                f"--wire {wire.value} needs a hidden size divisible by {values}, "
                f"this model has {width}; use --wire f16"
            )
        self.width = width
        self.row_bytes = width // values * self.block_bytes
        # Called through their addresses: the bindings' typed pointers cost more than the work.
        encode = ggml.ggml_get_type_traits_cpu(_TYPES[wire]).contents.from_float
        decode = ggml.ggml_get_type_traits(_TYPES[wire]).contents.to_float
        prototype = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)
        self.from_float = prototype(ctypes.cast(encode, ctypes.c_void_p).value or 0)
        self.to_float = prototype(ctypes.cast(decode, ctypes.c_void_p).value or 0)

    def pair(self, values: NDArray[np.float32], encoded: memoryview | None = None) -> WirePair:
        """`values`: f32[rows, width], with memory for as many encoded rows, made if not given."""
        if values.shape[1] != self.width:
            raise ValueError(f"rows of {values.shape[1]} values, the codec is for {self.width}")
        nbytes = len(values) * self.row_bytes
        if encoded is None:
            encoded = memoryview(bytearray(nbytes))
        if encoded.nbytes < nbytes:
            raise ValueError(f"{len(values)} rows encoded do not fit into {encoded.nbytes} bytes")
        return WirePair(self, values, encoded)


class WirePair:
    """Rows of values and the same rows encoded, both at fixed places in memory.

    `values`: f32[rows, width]; `encoded`: u8[rows * row_bytes]. The addresses are looked up once:
    asking numpy for one takes longer than converting a row.
    """

    def __init__(self, codec: WireCodec, values: NDArray[np.float32], encoded: memoryview) -> None:
        self.values = values
        self.encoded = encoded
        self._codec = codec
        self._values_address: int = values.ctypes.data
        self._encoded_address: int = np.frombuffer(encoded, np.uint8).ctypes.data

    def encode(self, rows: int) -> memoryview:
        """Encode the first `rows` rows: u8[rows * row_bytes], valid until the next call."""
        codec = self._codec
        codec.from_float(self._values_address, self._encoded_address, rows * codec.width)
        return self.encoded[: rows * codec.row_bytes]

    def decode(self, rows: int) -> NDArray[np.float32]:
        """Decode the first `rows` rows: f32[rows, width], valid until the next call."""
        codec = self._codec
        codec.to_float(self._encoded_address, self._values_address, rows * codec.width)
        return self.values[:rows]

"""Number formats in which vectors cross the network, converted by ggml's own kernels.

A row of H values is H/32 blocks of 34 bytes (Q8_0: an f16 scale and 32 signed bytes) or H f16
values. Encoded rows lie one behind the other, so any run of whole blocks can travel alone.
"""

from __future__ import annotations

import ctypes
from enum import Enum
from typing import Any, Final

import ggml
import numpy as np
from numpy.typing import NDArray

from halo_edge.errors import HaloError


class WireFormat(Enum):
    """What `--wire` names."""

    Q8_0 = "q8_0"
    F16 = "f16"


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
        self._encode = prototype(ctypes.cast(encode, ctypes.c_void_p).value or 0)
        self._decode = prototype(ctypes.cast(decode, ctypes.c_void_p).value or 0)

    def buffer(self, rows: int) -> NDArray[np.uint8]:
        """Room for `rows` encoded rows, u8[rows * row_bytes]."""
        return np.zeros(rows * self.row_bytes, np.uint8)

    def encode(self, values: NDArray[np.float32], encoded: NDArray[np.uint8], rows: int) -> None:
        """The first `rows` rows of `values`: f32[>= rows, width] into `encoded`."""
        self._encode(_address(values), _address(encoded), rows * self.width)

    def decode_from(self, encoded: memoryview, values: NDArray[np.float32], rows: int) -> None:
        """The reverse; `encoded` holds at least `rows` rows."""
        source = np.frombuffer(encoded, np.uint8, rows * self.row_bytes)
        self._decode(_address(source), _address(values), rows * self.width)


def _address(array: NDArray[Any]) -> int:
    address: int = array.__array_interface__["data"][0]  # half the cost of array.ctypes.data
    return address

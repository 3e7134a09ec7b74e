"""Columns of a quantised matrix gathered into matrices of their own.

Blocks of quantised values run along a row, so columns that are taken out of their blocks have to
be dequantised and quantised again. It works on a few rows at a time, with ggml's row functions, so
that it needs next to no memory and the caches hold what it does need.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from enum import Enum
from typing import Any, Final

import ggml
import numpy as np
from numpy.typing import NDArray

from halo_edge.compute.weights import Matrix
from halo_edge.model.gguf_file import block_size, tensor_nbytes

# Values dequantised at a time: 1 MB, and as much again for those that were chosen.
_VALUES_AT_A_TIME: Final = 1 << 18

_RowFunction = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)


class DownType(Enum):
    """What gathered columns of `down` are quantised to: Q8_0, or the type that they had."""

    Q8_0 = "q8_0"
    SAME = "same"


def gather_columns(
    matrix: Matrix, parts: Sequence[NDArray[np.intp]], down: DownType
) -> list[Matrix]:
    """For each of `parts`, column indices i[n], a packed matrix [matrix.rows, n].

    Types without blocks (f32, f16, bf16) are copied; Q8_0 keeps 8 bits where most others keep 2 to
    6, so what is lost is small against what the file's own quantisation lost. A number of columns
    that the wanted type's blocks do not divide is quantised to Q8_0, or else f16.
    """
    ggml.ggml_cpu_init()  # the tables of half precision, on CPUs that need them
    types = [_type_for(matrix.ggml_type, len(columns), down) for columns in parts]
    rows_at_a_time = max(1, _VALUES_AT_A_TIME // matrix.columns)
    packed = [
        np.empty((matrix.rows, tensor_nbytes(kind, (len(columns),))), np.uint8)
        for kind, columns in zip(types, parts, strict=True)
    ]
    values = np.empty((rows_at_a_time, matrix.columns), np.float32)
    stored = matrix.bytes_2d()
    decode, encode = _decoder(matrix.ggml_type), [_encoder(kind) for kind in types]
    for start in range(0, matrix.rows, rows_at_a_time):
        rows = np.ascontiguousarray(stored[start : start + rows_at_a_time])
        decoded = values[: len(rows)]
        decode(rows.ctypes.data, decoded.ctypes.data, decoded.size)
        for columns, out, function in zip(parts, packed, encode, strict=True):
            chosen = np.take(decoded, columns, axis=1)
            function(chosen.ctypes.data, out[start:].ctypes.data, chosen.size)
    return [
        Matrix.whole(out.reshape(-1), kind, matrix.rows, len(columns))
        for out, kind, columns in zip(packed, types, parts, strict=True)
    ]


def _type_for(stored: int, columns: int, down: DownType) -> int:
    wanted = stored if down is DownType.SAME or block_size(stored)[0] == 1 else ggml.GGML_TYPE_Q8_0
    for kind in (wanted, ggml.GGML_TYPE_Q8_0):
        if columns % block_size(kind)[0] == 0 and (kind == ggml.GGML_TYPE_F32 or _from_float(kind)):
            return kind
    return int(ggml.GGML_TYPE_F16)


def _decoder(kind: int) -> Any:
    """f(encoded, f32 values, number)."""
    if kind == ggml.GGML_TYPE_F32:
        return lambda source, to, n: ctypes.memmove(to, source, 4 * n)
    return _RowFunction(_address(ggml.ggml_get_type_traits(kind).contents.to_float))


def _encoder(kind: int) -> Any:
    """f(f32 values, encoded, number)."""
    if kind == ggml.GGML_TYPE_F32:
        return lambda source, to, n: ctypes.memmove(to, source, 4 * n)
    ggml.ggml_quantize_init(kind)
    return _RowFunction(_from_float(kind))


def _from_float(kind: int) -> int:
    """0 for a type that ggml quantises to only with measurements of the activations."""
    if ggml.ggml_quantize_requires_imatrix(kind):
        return 0
    return _address(ggml.ggml_get_type_traits_cpu(kind).contents.from_float)


def _address(function: Any) -> int:
    # The bindings' typed pointers would want a numpy conversion at every call.
    return ctypes.cast(function, ctypes.c_void_p).value or 0

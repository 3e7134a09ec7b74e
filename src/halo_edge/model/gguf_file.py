"""A GGUF file, memory-mapped: its metadata and where each tensor's bytes lie.

The header is parsed here and not by `gguf.GGUFReader`, which builds an array per vocabulary entry
(seconds for a small model, against tens of milliseconds here: docs/dependencies.md). What a tensor
type is, ggml itself says. Nothing here knows what a model is.

The file is distrusted: every length is checked against what is left of the file before anything is
read or allocated, so a damaged header costs an error and never memory.

Source: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, versions 2 and 3.
"""

from __future__ import annotations

import math
import mmap
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

import ggml
import numpy as np
from numpy.typing import NDArray

from halo_edge.errors import HaloError

MAGIC: Final = b"GGUF"
SUPPORTED_VERSIONS: Final = (2, 3)
DEFAULT_ALIGNMENT: Final = 32
MAX_DIMENSIONS: Final = 4
# No model has nearly as many keys, tensors, or entries in its vocabulary; a bound so that a damaged
# count cannot make us loop for hours. Likewise for the bytes of a string.
MAX_ENTRIES: Final = 1 << 20
MAX_STRING_BYTES: Final = 1 << 24

# The types of weights that ggml 0.0.45's graphs compute with. On others (integers, f64, the
# intermediate Q8_1 and Q8_K, whatever comes later) ggml ends the process.
WEIGHT_TYPES: Final = frozenset(
    {0, 1, 2, 3, 6, 7, 8, *range(10, 15), *range(16, 24), 29, 30, 34, 35, 39, 40, 41}
)

T = TypeVar("T")

_LENGTH: Final = struct.Struct("<Q")
_STRING: Final = 8
_ARRAY: Final = 9
_SCALAR_FORMATS: Final = {
    0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i",
    6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d",
}  # fmt: skip


@dataclass(frozen=True)
class TensorInfo:
    """Where one tensor lies. `shape` is in ggml's order: `shape[0]` is the contiguous dimension."""

    name: str
    ggml_type: int
    shape: tuple[int, ...]
    offset: int  # bytes from the start of the file
    nbytes: int

    @property
    def row_bytes(self) -> int:
        """Bytes of one row of `shape[0]` values."""
        return tensor_nbytes(self.ggml_type, self.shape[:1])


def block_size(ggml_type: int) -> tuple[int, int]:
    """Values and bytes of a block. Raises `ValueError` for a type ggml does not know."""
    if not 0 <= ggml_type < ggml.GGML_TYPE_COUNT:  # ggml itself would abort the process
        raise ValueError(f"unknown tensor type {ggml_type}")
    values, size = ggml.ggml_blck_size(ggml_type), ggml.ggml_type_size(ggml_type)
    if not values or not size:
        raise ValueError(f"tensor type {ggml_type} is no longer supported")
    return values, size


def tensor_nbytes(ggml_type: int, shape: tuple[int, ...]) -> int:
    """Bytes of a contiguous tensor. Raises `ValueError` for an unknown type or a broken block."""
    block, size = block_size(ggml_type)
    if shape[0] % block:
        raise ValueError(f"row of {shape[0]} values is not a whole number of blocks of {block}")
    return math.prod(shape) // block * size


class _Cursor:
    """Reads little-endian values from the mapped file, never past its end."""

    def __init__(self, buffer: mmap.mmap) -> None:
        self.buffer = buffer
        self.position = 0

    def scalar(self, layout: str) -> int | float | bool:
        size = struct.calcsize(layout)
        self.need(size)
        (value,) = struct.unpack_from(layout, self.buffer, self.position)
        self.position += size
        return value  # type: ignore[no-any-return]

    def count(self, layout: str = "<Q") -> int:
        return int(self.scalar(layout))

    def string(self) -> str:
        return self.strings(1)[0]

    def strings(self, count: int) -> list[str]:
        """One loop, as vocabularies have a hundred thousand of them."""
        buffer, start, end = self.buffer, self.position, len(self.buffer)
        length, length_bytes = _LENGTH.unpack_from, _LENGTH.size
        found = []
        for _ in range(count):
            if start + length_bytes > end:
                raise _EndOfFile
            (size,) = length(buffer, start)
            start += length_bytes
            stop = start + size
            if stop > end:
                raise _EndOfFile
            if size > MAX_STRING_BYTES:
                raise _Malformed(f"a string of {size:,} bytes")
            found.append(buffer[start:stop].decode("utf-8", "replace"))
            start = stop
        self.position = start
        return found

    def need(self, size: int) -> None:
        if size < 0 or self.position + size > len(self.buffer):
            raise _EndOfFile

    def value(self, kind: int) -> object:
        if kind == _STRING:
            return self.string()
        if kind == _ARRAY:
            return self.array()
        if kind not in _SCALAR_FORMATS:
            raise _Malformed(f"metadata of unknown type {kind}")
        return self.scalar(_SCALAR_FORMATS[kind])

    def array(self) -> object:
        kind, count = self.count("<I"), self.count()
        self.need(count)  # each entry has at least a byte
        if count > MAX_ENTRIES:
            raise _Malformed(f"an array of {count:,} entries")
        if kind == _STRING:
            self.need(8 * count)  # each string has at least its length
            return self.strings(count)
        if kind not in _SCALAR_FORMATS:
            raise _Malformed(f"metadata array of unsupported type {kind}")
        dtype = np.dtype(_SCALAR_FORMATS[kind])
        self.need(dtype.itemsize * count)
        values = np.frombuffer(self.buffer, dtype, count, self.position).copy()
        self.position += dtype.itemsize * count
        return values


class _EndOfFile(Exception):
    pass


class _Malformed(Exception):
    pass


class GgufFile:
    """A GGUF file that stays mapped as long as this object (or a view of `data`) lives.

    `metadata` holds plain values; arrays of strings are lists, arrays of numbers numpy arrays.
    `data` is the whole file, u8[size], read-only and paged in on demand.
    """

    def __init__(
        self,
        path: Path,
        metadata: dict[str, object],
        tensors: dict[str, TensorInfo],
        data: NDArray[np.uint8],
    ) -> None:
        self.path = path
        self.metadata = metadata
        self.tensors = tensors
        self.data = data

    @classmethod
    def open(cls, path: Path) -> GgufFile:
        """Map `path` and parse its header.

        Raises `HaloError` if there is no such file, it is not GGUF, or it is truncated.
        """
        try:
            if path.exists() and not path.is_file():  # opening a pipe would wait for a writer
                raise HaloError(f"not a file: {path}; name a GGUF file")
            with path.open("rb") as file:
                if file.read(4) != MAGIC:
                    raise HaloError(f"not a GGUF file: {path} (convert it, or `halo pull` a model)")
                mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except FileNotFoundError:
            raise HaloError(f"no such file: {path}") from None
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            raise HaloError(f"cannot read {path}: {reason}") from None
        try:
            metadata, tensors = _parse(_Cursor(mapped))
        except _EndOfFile:
            raise HaloError(
                f"truncated GGUF: {path} ends after {len(mapped):,} bytes; fetch it again"
            ) from None
        except _Malformed as error:
            raise HaloError(f"damaged GGUF: {path}: {error}; fetch it again") from None
        return cls(path, metadata, tensors, np.frombuffer(mapped, np.uint8))

    def tensor_bytes(self, name: str) -> NDArray[np.uint8]:
        """The bytes of one tensor, u8[nbytes], a view into the mapping.

        Raises `HaloError` if the file has no such tensor.
        """
        info = self.tensor(name)
        return self.data[info.offset : info.offset + info.nbytes]

    def tensor(self, name: str) -> TensorInfo:
        """Raises `HaloError` if the file has no such tensor."""
        try:
            return self.tensors[name]
        except KeyError:
            raise HaloError(f"{self.path} has no tensor {name}; is it a whole model?") from None

    def need(self, key: str, convert: Callable[[object], T]) -> T:
        """Metadata `key` through `convert`, which raises `ValueError` for what it cannot use.

        Raises `HaloError` where the key is missing or unusable.
        """
        if key not in self.metadata:
            raise HaloError(f"{self.path} lacks the metadata key {key}; is it a language model?")
        try:
            return convert(self.metadata[key])
        except ValueError:
            raise HaloError(f"{self.path}: the metadata key {key} is unusable") from None


def _parse(cursor: _Cursor) -> tuple[dict[str, object], dict[str, TensorInfo]]:
    cursor.position = len(MAGIC)
    version = cursor.count("<I")
    if version not in SUPPORTED_VERSIONS:
        raise _Malformed(f"version {version} is not one of {SUPPORTED_VERSIONS}")
    n_tensors, n_metadata = cursor.count(), cursor.count()
    if max(n_tensors, n_metadata) > MAX_ENTRIES:
        raise _Malformed("more entries than any model has")
    metadata: dict[str, object] = {}
    for _ in range(n_metadata):
        key = cursor.string()
        if key in metadata:
            raise _Malformed(f"the metadata key {key!r} is there twice")
        metadata[key] = cursor.value(cursor.count("<I"))
    entries = [_tensor_entry(cursor) for _ in range(n_tensors)]
    alignment = metadata.get("general.alignment", DEFAULT_ALIGNMENT)
    if not isinstance(alignment, int) or alignment < 8 or alignment & (alignment - 1):
        raise _Malformed("alignment is not a power of two from 8")
    start = -(-cursor.position // alignment) * alignment
    tensors = {}
    for name, ggml_type, shape, offset in entries:
        try:
            nbytes = tensor_nbytes(ggml_type, shape)
        except ValueError as error:
            raise _Malformed(f"tensor {name!r}: {error}") from None
        if name in tensors:
            raise _Malformed(f"tensor {name!r} is there twice")
        if offset % alignment:
            raise _Malformed(f"tensor {name!r} is not aligned")
        if start + offset + nbytes > len(cursor.buffer):
            raise _EndOfFile
        tensors[name] = TensorInfo(name, ggml_type, shape, start + offset, nbytes)
    return metadata, tensors


def _tensor_entry(cursor: _Cursor) -> tuple[str, int, tuple[int, ...], int]:
    name = cursor.string()
    n_dimensions = cursor.count("<I")
    if not 1 <= n_dimensions <= MAX_DIMENSIONS:
        raise _Malformed(f"tensor {name!r} has {n_dimensions} dimensions")
    shape = tuple(cursor.count() for _ in range(n_dimensions))
    if any(not 0 < n < 1 << 40 for n in shape):
        raise _Malformed(f"tensor {name!r} has the shape {shape}")
    return name, cursor.count("<I"), shape, cursor.count()

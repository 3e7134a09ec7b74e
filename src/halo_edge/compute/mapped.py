"""The pages of mapped files that weights lie in: given back, asked for, counted.

All of it is advice to the kernel, or its answer: what an array contains never changes.
"""

from __future__ import annotations

import ctypes
import mmap
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

# Reading one page maps those around it, as far as this.
FAULT_AROUND_BYTES: Final = 1 << 16


def drop_mapped_pages(data: NDArray[np.uint8]) -> None:
    """Let the kernel have the pages of `data` back, if it is a part of a mapped file; with what
    reading it has mapped of its neighbours."""
    _advise(data, mmap.MADV_DONTNEED, around=FAULT_AROUND_BYTES)


def want_mapped_pages(data: NDArray[np.uint8]) -> None:
    """Let the kernel read the pages of `data` in the background, if it is a part of a mapped
    file."""
    _advise(data, mmap.MADV_WILLNEED)


def resident_share(data: NDArray[np.uint8]) -> float:
    """How much of a mapped file's `data` is in memory, 0 ... 1; 1 for other memory, 0 where the
    kernel does not say."""
    if _mapping(data) is None or not data.nbytes:
        return 1.0
    page = mmap.PAGESIZE
    start = data.ctypes.data // page * page
    pages = -(-(data.ctypes.data + data.nbytes - start) // page)
    resident = np.zeros(pages, np.uint8)
    try:
        mincore = ctypes.CDLL(None).mincore
    except AttributeError:
        return 0.0
    address = ctypes.c_void_p(start)
    length = ctypes.c_size_t(pages * page)
    if mincore(address, length, ctypes.c_void_p(resident.ctypes.data)) != 0:
        return 0.0
    return float((resident & 1).mean())


def _advise(data: NDArray[np.uint8], advice: int, around: int = 0) -> None:
    base = _mapping(data)
    if base is not None:
        start = data.ctypes.data - np.frombuffer(base, np.uint8).ctypes.data
        page = mmap.PAGESIZE
        begin = max(0, start - around) // page * page
        end = min(len(base), start + data.nbytes + around)
        base.madvise(advice, begin, end - begin)


def _mapping(data: NDArray[np.uint8]) -> mmap.mmap | None:
    """The mapped file that `data` is a part of."""
    base: Any = data
    while isinstance(base, np.ndarray | memoryview):
        base = base.base if isinstance(base, np.ndarray) else base.obj
    return base if isinstance(base, mmap.mmap) else None

"""Whole files read into buffers that are already there, past the page cache.

Weights that are streamed are read once a token and not again before everything else was: a page
cache would keep what is not needed soon, and count as this process's memory. Direct reads leave
nothing in it. Where a file system refuses them, the pages are given back after each read. What is
in the files is none of this file's business.
"""

from __future__ import annotations

import errno
import mmap
import os
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

# Direct reads want addresses, offsets and lengths in whole blocks of the device; a page is one or
# several of those of every device known.
BLOCK_BYTES: Final = mmap.PAGESIZE
_O_DIRECT: Final = getattr(os, "O_DIRECT", 0)
_REFUSED: Final = (errno.EINVAL, errno.ENOTSUP)


def whole_blocks(nbytes: int) -> int:
    """The bytes of a buffer that `nbytes` can be read into directly."""
    return -(-nbytes // BLOCK_BYTES) * BLOCK_BYTES


def block_buffer(nbytes: int) -> NDArray[np.uint8]:
    """u8[whole_blocks(nbytes)], on the boundary of a block. Its pages are made on first use."""
    return np.frombuffer(mmap.mmap(-1, whole_blocks(nbytes)), np.uint8)


def read_file(path: Path, buffer: NDArray[np.uint8], nbytes: int) -> None:
    """The first `nbytes` of the file, into a part of a `block_buffer`: u8[whole_blocks(nbytes)],
    on the boundary of a block.

    Raises `OSError` where it cannot be read, `EOFError` where it is shorter.
    """
    try:
        _read(path, buffer, nbytes, _O_DIRECT)
    except OSError as error:
        if not _O_DIRECT or error.errno not in _REFUSED:
            raise
        _read(path, buffer, nbytes, 0)


def _read(path: Path, buffer: NDArray[np.uint8], nbytes: int, flags: int) -> None:
    view = buffer.data[: whole_blocks(nbytes)]
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | flags)
    try:
        done = 0
        while done < nbytes:
            # Only the end of the file, and signals, make it shorter than asked for.
            count = os.preadv(descriptor, [view[done:]], done)
            if count == 0:
                raise EOFError(f"{path} ends after {done} of {nbytes} bytes")
            done += count
        if not flags:
            forget_pages(descriptor)
    finally:
        os.close(descriptor)


def forget_pages(descriptor: int) -> None:
    """Have the page cache forget an open file, as far as it is written back, where the system can
    be told to."""
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)

"""Give back memory that was freed: of matrices, glibc keeps all it can for later."""

from __future__ import annotations

import contextlib
import ctypes


def give_memory_back() -> None:
    """To the system. Where the library is not glibc, nothing happens."""
    with contextlib.suppress(AttributeError):
        ctypes.CDLL(None).malloc_trim(0)

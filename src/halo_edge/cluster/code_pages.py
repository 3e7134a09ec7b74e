"""Give back memory that holds code which ran once.

Starting Zenoh and OpenSSL, and fetching shards, leaves some 15 MB of library code resident that
answering rounds does not need. The kernel would drop it only when memory is short already.
"""

from __future__ import annotations

import ctypes
import mmap
import sys
from pathlib import Path


def drop_code_pages() -> None:
    """Unmap the code of all shared libraries; what is needed comes back from the page cache.

    Only read-only code is touched, whose pages are exactly those of the file. Does nothing but on
    Linux.
    """
    if sys.platform != "linux":
        return
    libc = ctypes.CDLL(None)
    libc.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    for line in Path("/proc/self/maps").read_text().splitlines():
        fields = line.split(maxsplit=5)
        if fields[1] == "r-xp" and len(fields) == 6 and ".so" in fields[5]:
            start, stop = (int(bound, 16) for bound in fields[0].split("-"))
            libc.madvise(start, stop - start, mmap.MADV_DONTNEED)

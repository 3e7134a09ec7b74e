"""How fast the storage is that shards lie on, measured by reading as streamed weights are read."""

from __future__ import annotations

import contextlib
import itertools
import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from halo_edge.compute.direct_read import block_buffer, forget_pages, read_file

# About a tile: shorter reads would measure their overhead, and one of a slow disk's takes a tenth
# of a second.
SAMPLE_BYTES: Final = 1 << 20
MIN_FILE_BYTES: Final = SAMPLE_BYTES // 4
MIN_TOTAL_BYTES: Final = 8 << 20  # less says more of the first read than of the others
MAX_SAMPLES: Final = 64


def read_bandwidth(directory: Path, budget_s: float = 0.5) -> float | None:
    """Bytes a second that files in `directory` are read with, past the page cache; None where that
    cannot be told. Temporary files are written first where there are too few: the time for that is
    not in `budget_s`, which one read may exceed.
    """
    try:
        files = _largest(directory)
        if sum(size for _, size in files) >= MIN_TOTAL_BYTES:
            return _measure(files, budget_s)
        with contextlib.ExitStack() as stack:
            written = []
            for _ in range(MIN_TOTAL_BYTES // SAMPLE_BYTES):
                file = stack.enter_context(
                    tempfile.NamedTemporaryFile(dir=directory, prefix=".bandwidth-")
                )
                file.write(os.urandom(SAMPLE_BYTES))  # nothing that a file system could compress
                file.flush()
                written.append((Path(file.name), SAMPLE_BYTES))
            return _measure(written, budget_s)
    except (OSError, EOFError):  # not there, full, not ours, or pruned by another worker meanwhile
        return None


def _largest(directory: Path) -> list[tuple[Path, int]]:
    """Files, and how much of each to read: at most a sample."""
    found = []
    with os.scandir(directory) as entries:
        for entry in entries:
            if entry.is_file(follow_symlinks=False):
                found.append((entry.stat(follow_symlinks=False).st_size, Path(entry.path)))
    found.sort(reverse=True)
    return [
        (path, min(size, SAMPLE_BYTES))
        for size, path in found[:MAX_SAMPLES]
        if size >= MIN_FILE_BYTES
    ]


def _measure(files: Sequence[tuple[Path, int]], budget_s: float) -> float | None:
    buffer = block_buffer(SAMPLE_BYTES)
    buffer[:] = 0  # its pages are there when the clock starts
    for path, _ in files:
        _settle(path)
    began_s = time.monotonic()
    nbytes, elapsed_s = 0, 0.0
    for path, size in itertools.islice(itertools.cycle(files), MAX_SAMPLES):
        read_file(path, buffer, size)
        nbytes += size
        elapsed_s = time.monotonic() - began_s
        if elapsed_s >= budget_s:
            break
    return nbytes / elapsed_s if elapsed_s > 0 else None


def _settle(path: Path) -> None:
    """Have it written back, for which a read past the page cache would wait, and forgotten."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
        forget_pages(descriptor)
    finally:
        os.close(descriptor)

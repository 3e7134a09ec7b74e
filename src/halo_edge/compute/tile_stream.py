"""Tiles of weights read from disk ahead of their use, into a few buffers, round and round.

A model's layers are computed in a circle, so the tiles of all of them are one circle too, and the
loader reads along it. Positions count on without end: position p is tile p mod N, in buffer
p mod B, for N tiles and B buffers.

    computed          read, waiting      being read   not yet
    ... head-1  |  head ... read-1  |  read  |  read+1 ...       read < head + B

A layer other than the next one is a move of `head` forward, by up to a whole circle: what is read
already and lies beyond stays good. What is in a tile, and which layer it is of, is not known here.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from halo_edge.compute.direct_read import block_buffer, read_file, whole_blocks
from halo_edge.errors import HaloError

MIN_BUFFERS: Final = 2  # one is computed with while the other is read into
# A tile is some MB; what takes longer than this to read it is not a slow disk but none.
READ_TIMEOUT_S: Final = 10.0
END_TIMEOUT_S: Final = 2.0


@dataclass(frozen=True)
class TileFile:
    """The first `nbytes` of the file are a tile."""

    path: Path
    nbytes: int


@dataclass(frozen=True)
class Loading:
    """What was loaded so far: bytes, tiles, and the seconds for which tiles were waited for."""

    bytes_read: int
    tiles_read: int
    waited_s: float


class TileStream:
    """`files`, at least one, in the order of their use. `buffers`: u8[whole blocks] each.

    One thread uses it; the loader is another, from construction to `close`. `loading` may be asked
    for from anywhere.
    """

    def __init__(
        self,
        files: Sequence[TileFile],
        pool_bytes: int,
        *,
        read_timeout_s: float = READ_TIMEOUT_S,
    ) -> None:
        """Raises `HaloError` where `pool_bytes` do not hold two tiles."""
        self._files = list(files)
        buffer_bytes = whole_blocks(max(file.nbytes for file in self._files))
        n_buffers = pool_bytes // buffer_bytes
        if n_buffers < MIN_BUFFERS:
            raise HaloError(
                f"{pool_bytes / 1e6:.1f} MB for weights that are read from disk; two tiles of "
                f"{buffer_bytes / 1e6:.1f} MB are the least: give this worker more memory"
            )
        pool = block_buffer(n_buffers * buffer_bytes).reshape(n_buffers, buffer_bytes)
        self.buffers: list[NDArray[np.uint8]] = list(pool)
        self._read_timeout_s = read_timeout_s
        self._changed = threading.Condition()
        self._head = 0
        self._read = 0
        self._error: HaloError | None = None  # why the tile at `_read` cannot be read
        self._closed = False
        self._loading = Loading(0, 0, 0.0)
        self._thread = threading.Thread(target=self._load, name="halo-loader", daemon=True)
        self._thread.start()

    @property
    def loading(self) -> Loading:
        return self._loading

    def seek(self, index: int) -> None:
        """Make `files[index]` the next. Nothing happens if it is."""
        with self._changed:
            ahead = (index - self._head) % len(self._files)
            if ahead:
                self._head += ahead
                if self._read < self._head:
                    self._read, self._error = self._head, None
                self._changed.notify_all()

    def wait(self) -> int:
        """Wait for the next tile; the buffer that it is in, until `release`.

        Raises `HaloError` where it cannot be read, or not in time. What failed before it was wanted
        is tried again first.
        """
        with self._changed:
            if self._read == self._head:
                self._error = None
                self._changed.notify_all()
                began_s = time.monotonic()
                self._changed.wait_for(self._is_settled, self._read_timeout_s)
                self._count(waited_s=time.monotonic() - began_s)
            if self._read > self._head:
                return self._head % len(self.buffers)
            raise self._error or self._late()

    def release(self) -> None:
        """The tile that was waited for is not needed any more."""
        with self._changed:
            self._head += 1
            self._changed.notify_all()

    def close(self) -> None:
        """End the loader. One that hangs in the kernel is left to end with the process."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join(END_TIMEOUT_S)

    def _load(self) -> None:
        while True:
            with self._changed:
                # Nobody may want a tile for hours. `close` wakes it, too.
                self._changed.wait_for(self._has_work)
                if self._closed:
                    return
                position = self._read
            file = self._files[position % len(self._files)]
            error = _try_read(file, self.buffers[position % len(self.buffers)])
            with self._changed:
                if error is None:
                    self._count(bytes_read=file.nbytes, tiles_read=1)
                if self._read == position:  # not passed over meanwhile
                    self._error = error
                    self._read += error is None
                    self._changed.notify_all()

    def _has_work(self) -> bool:
        room = self._read < self._head + len(self.buffers)
        return self._closed or (room and self._error is None)

    def _is_settled(self) -> bool:
        return self._closed or self._read > self._head or self._error is not None

    def _late(self) -> HaloError:
        path = self._files[self._head % len(self._files)].path
        why = "the loader is closed" if self._closed else "is the disk sound?"
        return HaloError(f"{path} was not read in {self._read_timeout_s:g} s; {why}")

    def _count(self, bytes_read: int = 0, tiles_read: int = 0, waited_s: float = 0.0) -> None:
        so_far = self._loading
        self._loading = Loading(
            so_far.bytes_read + bytes_read,
            so_far.tiles_read + tiles_read,
            so_far.waited_s + waited_s,
        )


def _try_read(file: TileFile, buffer: NDArray[np.uint8]) -> HaloError | None:
    try:
        read_file(file.path, buffer, file.nbytes)
    except OSError as error:
        return HaloError(f"cannot read weights from {file.path}: {error.strerror}; start again")
    except EOFError as error:
        return HaloError(f"{error}; remove the file and start again")
    return None

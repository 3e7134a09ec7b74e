"""Packed shards on disk, named by their content: of a worker, so that a second start transfers
nothing, and of the root, so that it packs nothing. Processes of one user share the directory.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from halo_edge.compute.mapped import drop_mapped_pages
from halo_edge.errors import HaloError
from halo_edge.groups.shard import ContentHash, content_hash

DEFAULT_LIMIT_BYTES: Final = 16 << 30
PIECE_BYTES: Final = 1 << 20
MAX_SUMS: Final = 1 << 16


class ShardCache:
    """Files in `directory`; the longest unused go when they exceed `limit_bytes` together."""

    def __init__(self, directory: Path, limit_bytes: int = DEFAULT_LIMIT_BYTES) -> None:
        self.directory = directory
        self._limit_bytes = limit_bytes
        self.fetched_bytes = 0
        self.cached_bytes = 0
        self._sums: dict[str, int] = {}

    def load(
        self,
        sha256: str,
        nbytes: int,
        fetch: Callable[[int, int], bytes],
        piece_bytes: int = PIECE_BYTES,
    ) -> NDArray[np.uint8]:
        """The shard, u8[nbytes], mapped from disk; fetched if it is not there or damaged.

        `fetch(start, stop)` gives a piece of `piece_bytes` at the most, so that a worker never
        holds all of it twice.
        Raises `HaloError` if what was fetched is not what was announced, or the disk is full.
        """
        mapped = self.find(sha256, nbytes)
        if mapped is not None:
            self.cached_bytes += nbytes
            return mapped
        try:
            self._fetch(sha256, nbytes, fetch, piece_bytes)
        except OSError as error:
            raise HaloError(f"cannot keep shards in {self.directory}: {error.strerror}") from None
        mapped = self.find(sha256, nbytes)
        if mapped is None:
            path = self.directory / sha256
            raise HaloError(f"{path} changed while it was written; is the disk sound?")
        self.fetched_bytes += nbytes
        return mapped

    def find(self, sha256: str, nbytes: int) -> NDArray[np.uint8] | None:
        """The shard, u8[nbytes], mapped, if it is there and its content is what its name says."""
        mapped = self.map(sha256, nbytes)
        if mapped is None or not self._is_sound(sha256, mapped):
            return None
        drop_mapped_pages(mapped)  # until they are used
        return mapped

    def _is_sound(self, sha256: str, mapped: NDArray[np.uint8]) -> bool:
        """By its hash the first time, and then by a sum, which is made ten times as fast."""
        known = self._sums.get(sha256)
        if known is not None:
            return checksum(mapped) == known
        if content_hash(mapped) != sha256:
            return False
        if len(self._sums) < MAX_SUMS:
            self._sums[sha256] = checksum(mapped)
        return True

    def map(self, sha256: str, nbytes: int) -> NDArray[np.uint8] | None:
        """As `find`, whatever its content is: nothing of it is read."""
        if not self.touch(sha256, nbytes):
            return None
        try:
            mapped = np.memmap(self.directory / sha256, np.uint8, "r")
        except (OSError, ValueError):  # gone or emptied meanwhile
            return None
        return mapped.view(np.ndarray) if mapped.nbytes == nbytes else None

    def touch(self, sha256: str, nbytes: int) -> bool:
        """Whether a file of that name and size is there. It counts as used now, for `prune`."""
        path = self.directory / sha256
        try:
            if path.stat().st_size != nbytes:
                return False
        except OSError:
            return False
        with contextlib.suppress(OSError):  # not ours, or on a disk that cannot be written
            os.utime(path)
        return True

    def piece(self, sha256: str, start: int, stop: int) -> bytes:
        """Bytes `start:stop` of a shard, `PIECE_BYTES` at the most, read as they are. Raises
        `HaloError` if it is not there."""
        try:
            with (self.directory / sha256).open("rb", buffering=0) as file:
                return os.pread(file.fileno(), max(0, min(stop - start, PIECE_BYTES)), start)
        except OSError as error:
            raise HaloError(f"a shard cannot be read ({error.strerror})") from None

    def names(self) -> frozenset[str]:
        """Of the files that are there."""
        try:
            with os.scandir(self.directory) as entries:
                return frozenset(entry.name for entry in entries)
        except OSError:
            return frozenset()

    def remove(self, sha256: str) -> None:
        """Delete a shard that turned out to be damaged."""
        with contextlib.suppress(OSError):
            (self.directory / sha256).unlink()

    def add(self, sha256: str, packed: NDArray[np.uint8]) -> None:
        """Keep a shard. Raises `OSError`, with nothing kept, where the disk does not take it."""
        with self._unfinished(sha256) as unfinished:
            with unfinished.open("wb") as file:
                file.write(packed.data)
            unfinished.rename(self.directory / sha256)

    def _fetch(
        self, sha256: str, nbytes: int, fetch: Callable[[int, int], bytes], piece_bytes: int
    ) -> None:
        digest = ContentHash()
        with self._unfinished(sha256) as unfinished:
            with unfinished.open("wb") as file:
                for start in range(0, nbytes, piece_bytes):
                    stop = min(start + piece_bytes, nbytes)
                    piece = fetch(start, stop)
                    if len(piece) != stop - start:
                        break
                    digest.update(piece)
                    file.write(piece)
            if digest.hexdigest() != sha256:
                raise HaloError(f"the root sent a shard that is not {sha256[:12]}...; start again")
            unfinished.rename(self.directory / sha256)

    @contextlib.contextmanager
    def _unfinished(self, sha256: str) -> Iterator[Path]:
        """To be written and renamed, so that others see all of it or nothing."""
        self.directory.mkdir(parents=True, exist_ok=True)
        unfinished = self.directory / f".{sha256}.{os.getpid()}.{threading.get_native_id()}"
        try:
            yield unfinished
        except BaseException:
            with contextlib.suppress(OSError):
                unfinished.unlink(missing_ok=True)
            raise

    def prune(self, keep: frozenset[str]) -> None:
        """Delete the longest unused files beyond the limit, except those named by `keep`."""
        try:
            with os.scandir(self.directory) as entries:
                files = [(entry.stat(), entry.name) for entry in entries]
        except OSError:
            return  # nothing there yet, or another worker deletes at the same time
        total = sum(stat.st_size for stat, _ in files)
        for stat, name in sorted(files, key=lambda file: file[0].st_mtime):
            if total <= self._limit_bytes:
                return
            if name not in keep:
                with contextlib.suppress(OSError):  # gone meanwhile, or not ours to delete
                    (self.directory / name).unlink()
                    total -= stat.st_size


def checksum(packed: NDArray[np.uint8]) -> int:
    """The sum of 8-byte words, and of the bytes that are left. It tells a torn write or a flipped
    bit, and is made as fast as memory is read."""
    words = packed.nbytes // 8 * 8
    return int(packed[:words].view(np.uint64).sum()) + int(packed[words:].sum())

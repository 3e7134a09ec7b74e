"""A worker's shards on disk, named by their content, so that a second start transfers nothing."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from halo_edge.errors import HaloError
from halo_edge.groups.shard import ContentHash, content_hash

DEFAULT_LIMIT_BYTES: Final = 16 << 30
PIECE_BYTES: Final = 1 << 20


class ShardCache:
    """Files in `directory`; the longest unused go when they exceed `limit_bytes` together."""

    def __init__(self, directory: Path, limit_bytes: int = DEFAULT_LIMIT_BYTES) -> None:
        self._directory = directory
        self._limit_bytes = limit_bytes
        self.fetched_bytes = 0
        self.cached_bytes = 0

    def load(
        self, sha256: str, nbytes: int, fetch: Callable[[int, int], bytes]
    ) -> NDArray[np.uint8]:
        """The shard, u8[nbytes], mapped from disk; fetched if it is not there or damaged.

        `fetch(start, stop)` gives a piece of it, so that a worker never holds all of it twice.
        Raises `HaloError` if what was fetched is not what was announced, or the disk is full.
        """
        path = self._directory / sha256
        mapped = self._map(path, sha256, nbytes)
        if mapped is not None:
            self.cached_bytes += nbytes
            return mapped
        self._store(path, sha256, nbytes, fetch)
        mapped = self._map(path, sha256, nbytes)
        if mapped is None:
            raise HaloError(f"{path} changed while it was written; is the disk sound?")
        self.fetched_bytes += nbytes
        return mapped

    def _map(self, path: Path, sha256: str, nbytes: int) -> NDArray[np.uint8] | None:
        try:
            if path.stat().st_size != nbytes:
                return None
            mapped = np.memmap(path, np.uint8, "r")
            os.utime(path)  # "used now", for prune()
        except OSError:
            return None
        packed = mapped.view(np.ndarray)
        return packed if content_hash(packed) == sha256 else None

    def _store(
        self, path: Path, sha256: str, nbytes: int, fetch: Callable[[int, int], bytes]
    ) -> None:
        digest = ContentHash()
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            unfinished = self._directory / f".{sha256}.{os.getpid()}"
            with unfinished.open("wb") as file:
                try:
                    for start in range(0, nbytes, PIECE_BYTES):
                        stop = min(start + PIECE_BYTES, nbytes)
                        piece = fetch(start, stop)
                        if len(piece) != stop - start:
                            break
                        digest.update(piece)
                        file.write(piece)
                    if digest.hexdigest() != sha256:
                        raise HaloError(
                            f"the root sent a shard that is not {sha256[:12]}...; start again"
                        )
                    file.flush()
                    unfinished.rename(path)  # atomic: others see all of it or nothing
                except BaseException:
                    unfinished.unlink(missing_ok=True)
                    raise
        except OSError as error:
            raise HaloError(f"cannot keep shards in {self._directory}: {error.strerror}") from None

    def prune(self, keep: frozenset[str]) -> None:
        """Delete the longest unused files beyond the limit, except those named by `keep`."""
        try:
            files = [(p.stat().st_mtime, p.stat().st_size, p) for p in self._directory.iterdir()]
        except OSError:
            return  # nothing there yet, or another worker deletes at the same time
        total = sum(size for _, size, _ in files)
        for _, size, path in sorted(files, key=lambda file: file[0]):
            if total <= self._limit_bytes:
                return
            if path.name not in keep:
                with contextlib.suppress(OSError):  # gone meanwhile, or not ours to delete
                    path.unlink()
                    total -= size

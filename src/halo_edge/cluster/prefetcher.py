"""Fetches tiles that a root has packed and is about to assign, onto the disk, so that packing and
sending overlap.

What is told here is a hint: whatever was not fetched, the assignment's loading fetches.
"""

from __future__ import annotations

import threading
from collections import deque
from typing import Final

from halo_edge.cluster.messages import Coming, Tile
from halo_edge.cluster.shard_cache import ShardCache
from halo_edge.cluster.tile_source import Fetch
from halo_edge.cluster.worker_shards import spec_of_tile
from halo_edge.errors import HaloError

# A model of 80 layers has some 9,000 in all; what is more is fetched when it is assigned.
MAX_TILES: Final = 1 << 14
# For the tile under way; if it takes longer, it may be fetched twice.
END_TIMEOUT_S: Final = 10.0


class Prefetcher:
    """Of a worker. `fetch` asks a root, and raises `HaloError`. Any thread may call."""

    def __init__(self, cache: ShardCache, fetch: Fetch) -> None:
        self._cache = cache
        self._fetch = fetch
        self._lock = threading.Lock()
        self._session = ""
        self._assigned = -1  # the newest epoch of that session
        self._tiles: deque[tuple[int, Tile]] = deque()
        self._thread: threading.Thread | None = None
        self._fetched_bytes = 0

    def take(self, coming: Coming) -> None:
        """Fetch these after those before, unless their epoch was assigned meanwhile."""
        with self._lock:
            if coming.session != self._session:
                self._begin(coming.session)
            if coming.epoch <= self._assigned:
                return
            room = MAX_TILES - len(self._tiles)
            self._tiles.extend((coming.width, tile) for tile in coming.tiles[:room])
            if self._thread is None and self._tiles:
                self._thread = threading.Thread(target=self._run, name="prefetch", daemon=True)
                self._thread.start()

    def end(self, session: str, epoch: int) -> int:
        """That epoch is assigned: nothing is fetched for it from now on but the tile under way,
        which is waited for, within bounds. The bytes that were fetched since the last call."""
        with self._lock:
            if session != self._session:
                self._begin(session)
            self._assigned = max(self._assigned, epoch)
            self._tiles.clear()
            thread = self._thread
        if thread is not None:
            thread.join(END_TIMEOUT_S)
        with self._lock:
            fetched_bytes, self._fetched_bytes = self._fetched_bytes, 0
        return fetched_bytes

    def _begin(self, session: str) -> None:
        """What another root announced is of no use any more."""
        self._session, self._assigned = session, -1
        self._tiles.clear()

    def _run(self) -> None:
        while True:
            with self._lock:
                if not self._tiles:
                    self._thread = None
                    return
                session, (width, tile) = self._session, self._tiles.popleft()
            try:
                self._load(session, width, tile)
            except (HaloError, ValueError):  # the assignment's loading says what is wrong
                with self._lock:
                    self._tiles.clear()

    def _load(self, session: str, width: int, tile: Tile) -> None:
        fetched_bytes = 0

        def piece(start: int, stop: int) -> bytes:
            nonlocal fetched_bytes
            fetched_bytes += stop - start
            return self._fetch(session, tile.sha256, start, stop)

        self._cache.load(tile.sha256, spec_of_tile(width, tile).nbytes, piece)
        with self._lock:
            self._fetched_bytes += fetched_bytes

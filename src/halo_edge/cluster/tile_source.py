"""Where a worker gets what it was assigned from: its own disk, else a peer that has it, else the
root. Whatever comes is checked against its hash, so nobody needs to be trusted.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.typing import NDArray

from halo_edge.cluster.messages import Assignment
from halo_edge.cluster.shard_cache import PIECE_BYTES, ShardCache
from halo_edge.errors import HaloError

# 5 ms of a link of 100 Mbit/s.
SMALL_PIECE_BYTES: Final = 1 << 16

Fetch = Callable[[str, str, int, int], bytes]
"""From whom (the root's session, or a worker), which, and from where to where."""


class TileSource:
    """For one assignment. `from_root`, `from_peer` raise `HaloError`."""

    def __init__(
        self, assignment: Assignment, cache: ShardCache, from_root: Fetch, from_peer: Fetch
    ) -> None:
        self.peer_bytes = 0
        """That came from peers so far."""
        self._session = assignment.session
        self._cache = cache
        self._from_root = from_root
        self._from_peer = from_peer
        self._holders = {
            sha256: holder.worker for holder in assignment.holders for sha256 in holder.tiles
        }
        self._refused: set[str] = set()

    def load(self, sha256: str, nbytes: int) -> NDArray[np.uint8]:
        """u8[nbytes], mapped. Raises `HaloError` where nobody gives it."""
        return self._load(sha256, nbytes, PIECE_BYTES, lambda: None)

    def load_gently(
        self, sha256: str, nbytes: int, after_piece: Callable[[], None]
    ) -> NDArray[np.uint8]:
        """As `load`, in small pieces, between which others' datagrams get through. `after_piece` is
        called after each, and may raise."""
        return self._load(sha256, nbytes, SMALL_PIECE_BYTES, after_piece)

    def _load(
        self, sha256: str, nbytes: int, piece_bytes: int, after_piece: Callable[[], None]
    ) -> NDArray[np.uint8]:
        peer = self._holders.get(sha256)
        if peer is not None and peer not in self._refused:
            before = self._cache.fetched_bytes
            try:
                found = self._get(self._from_peer, peer, sha256, nbytes, piece_bytes, after_piece)
            except HaloError:  # gone, busy, or it has not got it yet
                self._refused.add(peer)
            else:
                self.peer_bytes += self._cache.fetched_bytes - before
                return found
        whom = self._session
        return self._get(self._from_root, whom, sha256, nbytes, piece_bytes, after_piece)

    def _get(
        self,
        fetch: Fetch,
        whom: str,
        sha256: str,
        nbytes: int,
        piece_bytes: int,
        after_piece: Callable[[], None],
    ) -> NDArray[np.uint8]:
        def piece(start: int, stop: int) -> bytes:
            found = fetch(whom, sha256, start, stop)
            after_piece()
            return found

        return self._cache.load(sha256, nbytes, piece, piece_bytes)

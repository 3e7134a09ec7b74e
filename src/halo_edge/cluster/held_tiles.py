"""The tiles that a worker has in its memory, by their content: whatever epoch they are for, they
are loaded and repacked once, and kept for as long as one of the session's epochs wants them.
"""

from __future__ import annotations

import threading
from collections.abc import Collection

from halo_edge.compute.ffn import FfnWeights
from halo_edge.compute.runtime import Runtime


class HeldTiles:
    """Of one session. Any thread may ask. `runtime` multiplies with them."""

    def __init__(self, threads: int) -> None:
        self.runtime = Runtime(threads, joins=False)
        self._tiles: dict[str, tuple[FfnWeights, int]] = {}
        self._lock = threading.Lock()

    def get(self, sha256: str) -> FfnWeights | None:
        """None for one that is not here."""
        found = self._tiles.get(sha256)
        return found[0] if found is not None else None

    def missing(self, names: Collection[str]) -> frozenset[str]:
        """Those of these that are not here."""
        return frozenset(name for name in names if name not in self._tiles)

    def add(self, sha256: str, weights: FfnWeights, nbytes: int) -> FfnWeights:
        """Hold it, repacked; that which is held already, if it is."""
        for matrix in (weights.gate, weights.up, weights.down):
            self.runtime.weights.place(matrix)
        with self._lock:
            held, _ = self._tiles.setdefault(sha256, (weights, nbytes))
        if held is not weights:
            self._forget(weights)
        return held

    def keep(self, names: Collection[str]) -> None:
        """Let all others go, as soon as no graph uses them."""
        with self._lock:
            gone = [name for name in self._tiles if name not in names]
            tiles = [self._tiles.pop(name) for name in gone]
        for weights, _ in tiles:
            self._forget(weights)

    def nbytes(self, names: Collection[str] | None = None) -> int:
        """What is held takes; or, of these, what is."""
        with self._lock:
            held = self._tiles.items()
            return sum(size for name, (_, size) in held if names is None or name in names)

    def _forget(self, weights: FfnWeights) -> None:
        for matrix in (weights.gate, weights.up, weights.down):
            self.runtime.weights.forget(matrix)

"""Which cell of the KV cache belongs to which token of which sequence.

Keeps the books only; the keys and values themselves are in `compute.kv_cache`.
"""

from __future__ import annotations

import heapq
from typing import Final, NewType

import numpy as np
from numpy.typing import NDArray

from halo_edge.errors import HaloError

SequenceId = NewType("SequenceId", int)

_FREE: Final = -1


class KvCells:
    """`cells` cells, handed out lowest first, so that the used part stays short."""

    def __init__(self, cells: int) -> None:
        self._owner: NDArray[np.int32] = np.full(cells, _FREE, np.int32)
        self._position: NDArray[np.int32] = np.zeros(cells, np.int32)
        self._free = list(range(cells))  # ascending, hence a heap
        self._used = 0

    def __len__(self) -> int:
        return len(self._owner)

    @property
    def n_free(self) -> int:
        return len(self._free)

    @property
    def used(self) -> int:
        """All used cells have an index below this."""
        return self._used

    def allocate(self, sequence: SequenceId, positions: range) -> list[int]:
        """A cell for each position of `sequence`. Raises `HaloError` when the cache is full."""
        if len(positions) > len(self._free):
            raise HaloError(f"the KV cache is full ({len(self._owner)} cells); use a larger --ctx")
        cells = [heapq.heappop(self._free) for _ in positions]
        self._owner[cells] = sequence
        self._position[cells] = positions
        self._used = max(self._used, cells[-1] + 1)
        return cells

    def release(self, sequence: SequenceId, keep: int = 0) -> None:
        """Free the cells of `sequence`, except those of its first `keep` positions."""
        freed = np.flatnonzero((self._owner == sequence) & (self._position >= keep))
        for cell in freed.tolist():
            heapq.heappush(self._free, cell)
        self._owner[freed] = _FREE
        occupied = np.flatnonzero(self._owner != _FREE)
        self._used = int(occupied[-1]) + 1 if len(occupied) else 0

    def hand_over(self, old: SequenceId, new: SequenceId) -> None:
        """Let `new` own what `old` owns: a conversation's next turn keeps what it has computed."""
        self._owner[self._owner == old] = new

    def copy(self, old: SequenceId, new: SequenceId, length: int) -> tuple[list[int], list[int]]:
        """Cells for `new` at the first `length` positions, which `old` has: those of `old`, and
        the new ones, for whoever copies what is in them. Raises `HaloError` when the cache is
        full."""
        source = np.flatnonzero((self._owner == old) & (self._position < length))
        source = source[np.argsort(self._position[source])]
        return source.tolist(), self.allocate(new, range(length))

    def fill_mask(self, mask: NDArray[np.float16], sequence: SequenceId, positions: range) -> None:
        """Write the rows of `mask`: f16[T, kv], of `sequence`'s tokens at `positions` (length T).

        A token sees its own sequence's cells up to its own position.
        """
        kv = mask.shape[1]
        seen_from = np.where(
            self._owner[:kv] == sequence, self._position[:kv], np.iinfo(np.int32).max
        )
        if len(positions) == 1:
            hidden = seen_from > positions[0]
            mask[0] = np.where(hidden, np.float16(-np.inf), np.float16(0))
            return
        rows = np.arange(positions.start, positions.stop, dtype=np.int32)[:, None]
        mask[:] = np.where(seen_from[None, :] > rows, np.float16(-np.inf), np.float16(0))

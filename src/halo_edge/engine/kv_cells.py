"""Which cell of the KV cache belongs to which token of which sequence.

Keeps the books only; the keys and values themselves are in `compute.kv_cache`. Attention walks over
the cells between the first and the last of a sequence, also those of others. So a sequence gets
cells one after the other, as far as there are any, and room to grow.
"""

from __future__ import annotations

from typing import Final, NewType

import numpy as np
from numpy.typing import NDArray

from halo_edge.errors import HaloError

SequenceId = NewType("SequenceId", int)

_FREE: Final = -1
_NOWHERE: Final = range(0)


class KvCells:
    """`cells` cells."""

    def __init__(self, cells: int) -> None:
        self._owner: NDArray[np.int32] = np.full(cells, _FREE, np.int32)
        self._position: NDArray[np.int32] = np.zeros(cells, np.int32)
        self._spans: dict[SequenceId, range] = {}
        self._n_free = cells

    def __len__(self) -> int:
        return len(self._owner)

    @property
    def n_free(self) -> int:
        return self._n_free

    def span(self, sequence: SequenceId) -> range:
        """From the first to the last cell of `sequence`. Others may have some between."""
        return self._spans.get(sequence, _NOWHERE)

    def allocate(self, sequence: SequenceId, positions: range) -> list[int]:
        """A cell for each position of `sequence`. Raises `HaloError` when the cache is full."""
        n = len(positions)
        if n > self._n_free:
            raise HaloError(f"the KV cache is full ({len(self)} cells); use a larger --ctx")
        cells: list[int] = []
        while len(cells) < n:
            part = self._next(self.span(sequence), n - len(cells))
            self._owner[part.start : part.stop] = sequence
            self._n_free -= len(part)
            self._spans[sequence] = _around(self.span(sequence), part)
            cells.extend(part)
        self._position[cells] = positions
        return cells

    def release(self, sequence: SequenceId, keep: int = 0) -> None:
        """Free the cells of `sequence`, except those of its first `keep` positions."""
        own = self._of(sequence)
        freed = own[self._position[own] >= keep]
        self._owner[freed] = _FREE
        self._n_free += len(freed)
        kept = self._of(sequence)
        if len(kept):
            self._spans[sequence] = range(int(kept[0]), int(kept[-1]) + 1)
        else:
            self._spans.pop(sequence, None)

    def hand_over(self, old: SequenceId, new: SequenceId) -> None:
        """Let `new`, which owns nothing, own what `old` owns: a conversation's next turn keeps what
        it has computed."""
        self._owner[self._of(old)] = new
        if old in self._spans:
            self._spans[new] = self._spans.pop(old)

    def copy(self, old: SequenceId, new: SequenceId, length: int) -> tuple[list[int], list[int]]:
        """Cells for `new` at the first `length` positions, which `old` has: those of `old`, and
        the new ones, for whoever copies what is in them. Raises `HaloError` when the cache is
        full."""
        source = self._of(old)
        source = source[self._position[source] < length]
        source = source[np.argsort(self._position[source])]
        return source.tolist(), self.allocate(new, range(length))

    def fill_mask(
        self, mask: NDArray[np.float16], first: int, sequence: SequenceId, positions: range
    ) -> None:
        """Write the rows of `mask`: f16[T, n], of `sequence`'s tokens at `positions` (length T),
        for the n cells from `first`.

        A token sees its own sequence's cells up to its own position.
        """
        looked_at = slice(first, first + mask.shape[1])
        seen_from = np.where(
            self._owner[looked_at] == sequence,
            self._position[looked_at],
            np.iinfo(np.int32).max,
        )
        if len(positions) == 1:
            hidden = seen_from > positions[0]
            mask[0] = np.where(hidden, np.float16(-np.inf), np.float16(0))
            return
        rows = np.arange(positions.start, positions.stop, dtype=np.int32)[:, None]
        mask[:] = np.where(seen_from[None, :] > rows, np.float16(-np.inf), np.float16(0))

    def _of(self, sequence: SequenceId) -> NDArray[np.intp]:
        """Its cells, ascending."""
        span = self.span(sequence)
        return np.flatnonzero(self._owner[span.start : span.stop] == sequence) + span.start

    def _next(self, span: range, n: int) -> range:
        """Up to `n` free cells in a row for the sequence of `span`, of which there are some: right
        behind it, else where it becomes no longer than it must. A new one gets the middle of the
        longest row, so that the sequence before that can grow, too."""
        behind = self._owner[span.stop : span.stop + n] if span else self._owner[:0]
        taken = np.flatnonzero(behind != _FREE)
        room = int(taken[0]) if len(taken) else len(behind)
        if room:
            return range(span.stop, span.stop + room)
        edges = np.diff(np.pad(self._owner == _FREE, 1).view(np.int8))
        starts, stops = np.flatnonzero(edges == 1), np.flatnonzero(edges == -1)
        if span:
            first, last = np.minimum(starts, span.start), np.maximum(stops, span.stop)
            row = int(np.argmin(last - first))
            start = int(starts[row])
        else:
            row = int(np.argmax(stops - starts))
            length = int(stops[row] - starts[row])
            start = int(starts[row]) + (max(0, min(length // 2, length - n)) if starts[row] else 0)
        return range(start, min(start + n, int(stops[row])))


def _around(one: range, other: range) -> range:
    if not one:
        return other
    return range(min(one.start, other.start), max(one.stop, other.stop))

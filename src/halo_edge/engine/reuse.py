"""What a sequence takes over of what others have computed, and who gives way when cells are short.

The books of cells are `KvCells`', those of kept tokens `Prefixes`'. It knows nothing of turns, or
of how many rows a step has.
"""

from __future__ import annotations

from collections.abc import Iterable

from halo_edge.engine.forward import Forward
from halo_edge.engine.kv_cells import SequenceId
from halo_edge.engine.prefixes import MAX_KEPT, MIN_REUSE, Prefixes, common_prefix
from halo_edge.engine.sequence import Sequence


class Reuse:
    """The cells of a model's KV cache, from one sequence to the next."""

    def __init__(self, forward: Forward) -> None:
        self._forward = forward
        self._prefixes = Prefixes()

    @property
    def n_kept(self) -> int:
        """Cells of sequences that have ended: for whoever begins like them, until somebody needs
        the room."""
        return self._prefixes.n_tokens

    def keep(self, sequence: Sequence) -> None:
        """It has ended: its cells are kept for whoever begins with the same tokens."""
        if sequence.n_computed < MIN_REUSE:
            self._forward.cells.release(sequence.id)
            return
        self._prefixes.keep(sequence.id, sequence.tokens[: sequence.n_computed])
        if len(self._prefixes) > MAX_KEPT:
            self._forward.cells.release(self._prefixes.drop_oldest())

    def drop(self, sequence: Sequence) -> None:
        """Keep nothing of it."""
        if self._prefixes.drop(sequence.id):
            self._forward.cells.release(sequence.id)

    def begin(
        self, sequence: Sequence, running: Iterable[Sequence], before: Iterable[Sequence]
    ) -> bool:
        """Take over what others have computed of the sequence's beginning; False if it had better
        wait for what this very step computes, of those `before` it."""
        wanted = sequence.tokens[:-1]  # somebody has to give the last one's logits
        others = [
            (common_prefix(other.tokens[: other.n_computed], wanted), other.id)
            for other in running
            if other is not sequence
        ]
        length, source = max(others, default=(0, sequence.id))
        kept = self._prefixes.longest(wanted)
        if kept is not None and kept[1] >= length:
            source, length = kept
        coming = max((common_prefix(other.tokens, wanted) for other in before), default=0)
        if coming >= length + MIN_REUSE:
            return False
        if length:
            self._take_over(sequence, source, length)
        return True

    def make_room(self, cells: int) -> bool:
        """Free so many cells at the expense of what is kept; whether that was enough."""
        while self._forward.cells.n_free < cells and len(self._prefixes):
            self._forward.cells.release(self._prefixes.drop_oldest())
        return self._forward.cells.n_free >= cells

    def _take_over(self, sequence: Sequence, source: SequenceId, length: int) -> None:
        """The cells themselves where most of them are of use, else a copy of what is in them."""
        cells, kept = self._forward.cells, self._prefixes.length(source)
        if kept and (2 * length >= kept or cells.n_free < length):
            self._prefixes.drop(source)
            cells.release(source, keep=length)
            cells.hand_over(source, sequence.id)
        elif kept or self.make_room(length):
            if kept:
                self._prefixes.use(source)
            self._forward.copy(source, sequence.id, length)
        else:
            return
        sequence.n_computed = length
        if len(sequence.tokens) == sequence.n_prompt:
            sequence.n_reused = length

"""The decode loop: sequences in, tokens out.

A step carries a prefill chunk of one sequence, or one token of every sequence that is being
decoded. Text, stop strings and the network are other files' business.
"""

from __future__ import annotations

from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass
from typing import Final

from halo_edge.engine.forward import Forward, Rows
from halo_edge.engine.gather import Gather
from halo_edge.engine.kv_cells import SequenceId
from halo_edge.engine.sampling import Sampled, SamplingParams
from halo_edge.engine.sequence import Sequence
from halo_edge.engine.trace import Activity
from halo_edge.errors import HaloError

# Long enough for matrix-matrix kernels, short enough that a step's activations stay small (128 rows
# of 2048 values are 1 MB) and a worker answers within a second.
PREFILL_CHUNK: Final = 128

_SAMPLING: Final = Activity.SAMPLING


@dataclass(frozen=True)
class NewToken:
    """A token that a step brought."""

    sequence: Sequence
    sampled: Sampled


class Engine:
    """Generates for any number of sequences that fit into the KV cache together.

    `context`: the most tokens one sequence may have; `end_tokens`: ids that end a generation.
    """

    def __init__(
        self, forward: Forward, gather: Gather, *, context: int, end_tokens: frozenset[int]
    ) -> None:
        self._forward = forward
        self._gather = gather
        self.context = context
        self._end_tokens = end_tokens
        self._running: list[Sequence] = []
        self._next_id = 0

    def add(
        self, prompt: SequenceOf[int], params: SamplingParams, after: Sequence | None = None
    ) -> Sequence:
        """Queue `prompt` (token ids). With `after`, an ended sequence, what both begin with is
        reused.

        Raises `HaloError` for a prompt that is empty, foreign, or longer than the context.
        """
        if not prompt:
            raise HaloError("the prompt is empty; give at least one character of text")
        if len(prompt) >= self.context:
            raise HaloError(
                f"the prompt has {len(prompt)} tokens, the context holds {self.context} with the "
                f"answer; shorten it or use a larger --ctx"
            )
        if not all(0 <= token < self._forward.params.vocab for token in prompt):
            raise HaloError("the prompt has token ids that the model does not know")
        sequence = Sequence(SequenceId(self._next_id), prompt, params, self.context)
        self._next_id += 1
        if after is not None:
            common = _common_prefix(after.tokens[: after.n_computed], prompt[:-1])
            self._forward.cells.release(after.id, keep=common)
            self._forward.cells.hand_over(after.id, sequence.id)
            after.n_computed, sequence.n_computed = 0, common
        self._running.append(sequence)
        return sequence

    def end(self, sequence: Sequence) -> None:
        """Compute no more of `sequence`. Its cells stay, for a later `add(after=...)`."""
        if sequence in self._running:
            self._running.remove(sequence)

    def release(self, sequence: Sequence) -> None:
        """End `sequence` and free its cells."""
        self.end(sequence)
        self._forward.cells.release(sequence.id)
        sequence.n_computed = 0

    def step(self) -> list[NewToken]:
        """Compute one step; the tokens it brought (none while a prompt is not through)."""
        batch = self._next_batch()
        if not batch:
            return []
        logits = self._forward.step([rows for _, rows in batch], self._gather)
        new, row = [], 0
        for sequence, rows in batch:
            sequence.n_computed += len(rows.tokens)
            if rows.outputs:
                sampled = sequence.sampler.sample(logits[row], sequence.tokens)
                row += 1
                sequence.append(sampled, self._end_tokens)
                new.append(NewToken(sequence, sampled))
                if sequence.finish is not None:
                    self.end(sequence)
        if new:
            self._forward.tracer.lap(_SAMPLING)
        return new

    def _next_batch(self) -> list[tuple[Sequence, Rows]]:
        """The oldest prompt's next chunk first; then everyone's next token."""
        for sequence in self._running:
            if sequence.prefilling:
                limit = min(PREFILL_CHUNK, self._forward.max_tokens)
                return [(sequence, sequence.next_rows(limit))]
        decoding = self._running[: self._forward.max_tokens]
        return [(sequence, sequence.next_rows(1)) for sequence in decoding]


def _common_prefix(a: SequenceOf[int], b: SequenceOf[int]) -> int:
    return next(
        (i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b))
    )

"""The decode loop: sequences in, tokens out.

A step serves everyone: the next token of every sequence that is being decoded, and as much of the
prompts as the others can bear. Text, stop strings and the network are other files' business.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass
from typing import Final

from halo_edge.engine.constraint import Constraint
from halo_edge.engine.forward import Forward, Rows
from halo_edge.engine.gather import Gather
from halo_edge.engine.kv_cells import SequenceId
from halo_edge.engine.pace import MAX_ADDED_S, Pace
from halo_edge.engine.reuse import Reuse
from halo_edge.engine.sampling import Sampled, SamplingParams
from halo_edge.engine.sequence import Sequence
from halo_edge.engine.trace import Activity
from halo_edge.engine.turns import Turns
from halo_edge.engine.waiting_line import WaitingLine
from halo_edge.errors import HaloError

# Long enough for matrix-matrix kernels, short enough that a step's activations stay small (128 rows
# of 2048 values are 1 MB) and a worker answers within a second.
PREFILL_CHUNK: Final = 128
# Sequences computed together. With more, what a step reads is shared by more, but small devices
# compute no faster for it, and everybody's tokens come slower.
MAX_RUNNING: Final = 16
# Cells for so many tokens to come are there when a sequence is admitted: if all go on for longer
# than there is room, the newest has to be computed again.
GROWTH: Final = 128

_SAMPLING: Final = Activity.SAMPLING


@dataclass(frozen=True)
class NewToken:
    """A token that a step brought."""

    sequence: Sequence
    sampled: Sampled


class Engine:
    """Generates for any number of sequences; those for which there is no room wait.

    `context`: the most tokens one sequence may have; `end_tokens`: ids that end a generation.
    `clock`: seconds.
    """

    def __init__(
        self,
        forward: Forward,
        gather: Gather,
        *,
        context: int,
        end_tokens: frozenset[int],
        max_running: int = MAX_RUNNING,
        max_added_s: float = MAX_ADDED_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`max_added_s`: see `Pace`."""
        self._forward = forward
        self._gather = gather
        self.context = min(context, len(forward.cells))
        self._end_tokens = end_tokens
        self._max_running = min(max_running, forward.max_tokens)
        self._clock = clock
        self._waiting = WaitingLine()
        self._running: list[Sequence] = []  # in the order in which they were admitted
        self._reuse = Reuse(forward)
        self._pace = Pace(max_added_s)
        self._turns = Turns()
        self._next_id = 0

    @property
    def n_running(self) -> int:
        return len(self._running)

    @property
    def n_waiting(self) -> int:
        return len(self._waiting)

    @property
    def n_cells(self) -> int:
        """Of the KV cache."""
        return len(self._forward.cells)

    @property
    def n_cells_used(self) -> int:
        """By sequences that run, and by what is kept."""
        return len(self._forward.cells) - self._forward.cells.n_free

    @property
    def n_cells_kept(self) -> int:
        """Of those used, by sequences that have ended: for whoever begins like them, until
        somebody needs the room."""
        return self._reuse.n_kept

    def check(self, prompt: SequenceOf[int]) -> None:
        """Raises `HaloError` for a prompt that is empty, foreign, or longer than the context. Any
        thread may ask."""
        if not prompt:
            raise HaloError("the prompt is empty; give at least one character of text")
        if len(prompt) >= self.context:
            raise HaloError(
                f"the prompt has {len(prompt)} tokens, the context holds {self.context} with the "
                f"answer; shorten it or use a larger --ctx"
            )
        if not all(0 <= token < self._forward.params.vocab for token in prompt):
            raise HaloError("the prompt has token ids that the model does not know")

    def add(
        self,
        prompt: SequenceOf[int],
        params: SamplingParams,
        user: str = "",
        constraint: Constraint | None = None,
    ) -> Sequence:
        """Queue `prompt` (token ids). What it begins with need not be computed if it is still in
        the KV cache. Raises `HaloError` as `check` does.
        """
        self.check(prompt)
        id = SequenceId(self._next_id)
        self._next_id += 1
        sequence = Sequence(id, prompt, params, self.context, user, constraint)
        self._waiting.put(sequence)
        return sequence

    def end(self, sequence: Sequence) -> None:
        """Compute no more of `sequence`. Its cells are anybody's who needs room; until then they
        are kept for whoever begins with the same tokens."""
        if sequence in self._running:
            self._running.remove(sequence)
            self._reuse.keep(sequence)
        else:
            self._waiting.remove(sequence)

    def release(self, sequence: Sequence) -> None:
        """End `sequence` and free its cells now."""
        self.end(sequence)
        self._reuse.drop(sequence)

    def step(self) -> list[NewToken]:
        """Compute one step; the tokens it brought (none while no prompt is through).

        A sequence that cannot go on ends with an `error`. Raises `HaloError` if the step failed;
        it can be tried again.
        """
        self._admit()
        batch = self._next_batch()
        if not batch:
            return []
        decoding = sum(not sequence.prefilling for sequence, _ in batch)
        begun_s = self._clock()
        logits = self._forward.step([rows for _, rows in batch], self._gather)
        computed = sum(len(rows.tokens) for _, rows in batch)
        self._pace.took(decoding, computed - decoding, self._clock() - begun_s)
        new, row = [], 0
        for sequence, rows in batch:
            sequence.n_computed += len(rows.tokens)
            if rows.outputs:
                try:
                    sampled = sequence.sampler.sample(logits[row], sequence.tokens)
                except HaloError as error:  # the others go on
                    sequence.error = error
                else:
                    sequence.append(sampled, self._end_tokens)
                    new.append(NewToken(sequence, sampled))
                row += 1
                if sequence.finish is not None or sequence.error is not None:
                    self.end(sequence)
        if row:
            self._forward.tracer.lap(_SAMPLING)
        return new

    def _admit(self) -> None:
        """Let those begin for whom there are cells, if all that run come to what is foreseen."""
        foreseen = sum(map(_foreseen_cells, self._running))
        while len(self._running) < self._max_running:
            sequence = self._waiting.next(self._running)
            if sequence is None:
                return
            foreseen += _foreseen_cells(sequence)
            if self._running and foreseen > len(self._forward.cells):
                return
            self._waiting.remove(sequence)
            self._running.append(sequence)

    def _next_batch(self) -> list[tuple[Sequence, Rows]]:
        """What the next step computes; there are cells for it."""
        while True:
            decoding = [sequence for sequence in self._running if not sequence.prefilling]
            chunks = self._chunks(len(decoding))
            sizes = [(sequence, 1) for sequence in decoding] + chunks
            batch = [(sequence, sequence.next_rows(size)) for sequence, size in sizes]
            rows = sum(len(rows.tokens) for _, rows in batch)
            if self._reuse.make_room(rows) or len(self._running) == 1:
                for sequence, _ in reversed(chunks):  # who got what was left is the next to choose
                    sequence.begun = True
                    self._turns.served(sequence.user)
                return batch
            self._put_back(self._running[-1])

    def _chunks(self, decoding: int) -> list[tuple[Sequence, int]]:
        """Which prompts get on in a step in which so many answers do, and by how many tokens."""
        prompts = self._turns.order(self._running)
        if not prompts:
            return []
        most = min(PREFILL_CHUNK, self._forward.max_tokens)
        if not decoding:
            return self._cut(prompts, most)
        left = sum(len(sequence.tokens) - sequence.n_computed for sequence in prompts)
        rows = self._pace.rows(decoding, min(most, decoding + left))
        chunks = self._cut(prompts, rows - decoding)
        # There may be less to compute than it seemed, and then not a number of rows to choose.
        taken = sum(size for _, size in chunks)
        over = decoding + taken - self._pace.rows(decoding, decoding + taken) if taken else 0
        while over:
            sequence, size = chunks.pop()
            if size > over:
                chunks.append((sequence, size - over))
            over -= min(size, over)
        return chunks

    def _cut(self, prompts: SequenceOf[Sequence], room: int) -> list[tuple[Sequence, int]]:
        """The next tokens of the first of `prompts`, as many as there is room for."""
        chunks: list[tuple[Sequence, int]] = []
        for sequence in prompts:
            if not room:
                break
            if sequence.n_computed == 0:
                before = [other for other, _ in chunks]
                if not self._reuse.begin(sequence, self._running, before):
                    continue
            size = min(room, len(sequence.tokens) - sequence.n_computed)
            chunks.append((sequence, size))
            room -= size
        return chunks

    def _put_back(self, sequence: Sequence) -> None:
        """Let it wait again; it will be computed anew, with what it has generated."""
        self._running.remove(sequence)
        self._forward.cells.release(sequence.id)
        sequence.n_computed = 0
        self._waiting.put_back(sequence)


def _foreseen_cells(sequence: Sequence) -> int:
    return len(sequence.tokens) + min(sequence.n_left, GROWTH)

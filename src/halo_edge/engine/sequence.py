"""One text being generated: its tokens, and how far the model has computed them."""

from __future__ import annotations

from collections.abc import Sequence as SequenceOf
from enum import Enum

from halo_edge.engine.constraint import Constraint
from halo_edge.engine.forward import Rows
from halo_edge.engine.kv_cells import SequenceId
from halo_edge.engine.sampling import Sampled, Sampler, SamplingParams
from halo_edge.errors import HaloError


class FinishReason(Enum):
    """Why a generation ended; the values are OpenAI's."""

    STOP = "stop"  # an end-of-generation token, or a stop string
    LENGTH = "length"  # max_tokens, or the context is full


class Sequence:
    """Prompt and generated tokens, and how many of both are in the KV cache.

    `user`: whom fairness is owed to. `n_reused`: tokens of the prompt that need not be computed.
    `begun`: whether any of it was computed. `error`: why it ended without a `finish`.
    """

    def __init__(
        self,
        id: SequenceId,
        prompt: SequenceOf[int],
        params: SamplingParams,
        context: int,
        user: str = "",
        constraint: Constraint | None = None,
    ) -> None:
        self.id = id
        self.params = params
        self.user = user
        self.sampler = Sampler(params, constraint)
        self.tokens = list(prompt)
        self.n_prompt = len(prompt)
        self.n_computed = 0
        self.n_reused = 0
        self.begun = False
        self.finish: FinishReason | None = None
        self.error: HaloError | None = None
        limit = context - self.n_prompt
        self._max_generated = limit if params.max_tokens is None else min(limit, params.max_tokens)

    @property
    def generated(self) -> list[int]:
        return self.tokens[self.n_prompt :]

    @property
    def n_left(self) -> int:
        """How many more tokens it may generate."""
        return self._max_generated - (len(self.tokens) - self.n_prompt)

    @property
    def prefilling(self) -> bool:
        """Whether more than the newest token is still to be computed."""
        return len(self.tokens) - self.n_computed > 1

    def next_rows(self, limit: int) -> Rows:
        """The next up to `limit` tokens to compute. The last token of all gets logits."""
        stop = min(len(self.tokens), self.n_computed + limit)
        chunk = self.tokens[self.n_computed : stop]
        return Rows(self.id, chunk, self.n_computed, outputs=int(stop == len(self.tokens)))

    def append(self, sampled: Sampled, end_tokens: frozenset[int]) -> None:
        """Take a sampled token, and notice when it was the last."""
        self.tokens.append(sampled.token_id)
        if sampled.token_id in end_tokens:
            self.finish = FinishReason.STOP
        elif len(self.tokens) - self.n_prompt >= self._max_generated:
            self.finish = FinishReason.LENGTH

"""What the model itself says: text of the kind that it will be computing when it serves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from halo_edge.calibrate.prompts import OPENINGS, PROMPTS
from halo_edge.engine.engine import Engine
from halo_edge.engine.load import LoadedModel
from halo_edge.engine.sampling import SamplingParams
from halo_edge.errors import HaloError
from halo_edge.model.chat_template import Message

BATCH: Final = 12
"""Sequences generated at a time."""
LENGTH: Final = 160
"""Tokens of each, with its prompt. Attention passes over the cells of all sequences for each token
of any, so longer ones take more time a token."""
CONTEXT: Final = BATCH * LENGTH
"""Cells of the KV cache that a batch needs."""


class OwnWords:
    """Batches of texts, each of which can be made by itself."""

    def __init__(self, model: LoadedModel, seed: int) -> None:
        self._model = model
        self._seed = seed
        self._length = min(model.context, LENGTH)
        self.size = max(1, min(BATCH, model.context // self._length))
        """Texts of a batch."""
        self._engine = Engine(
            model.forward,
            model.local_ffn(),
            context=self._length,
            end_tokens=frozenset(model.tokenizer.eog_ids),
            # What is computed in a step must not depend on how long steps take: it is rounded
            # otherwise then, and the text is not the same when it is made again.
            clock=lambda: 0.0,
        )
        texts = [_chat(model, text) for text in PROMPTS] + [_plain(model, o) for o in OPENINGS]
        self._prompts = [tokens[: self._length // 2] for tokens in texts if tokens]

    def batch(self, number: int) -> list[list[int]]:
        """The texts of batch `number`, as token ids with their prompts."""
        sequences = []
        for i in range(number * self.size, (number + 1) * self.size):
            # Every time through the list in another order.
            turn, place = divmod(i, len(self._prompts))
            order = np.random.default_rng([self._seed, 2, turn]).permutation(len(self._prompts))
            sampling = SamplingParams(temperature=1.0, top_k=0, min_p=0.0, seed=self._seed + i)
            sequences.append(self._engine.add(self._prompts[order[place]], sampling))
        try:
            while any(sequence.finish is None for sequence in sequences):
                self._engine.step()
        finally:
            for sequence in sequences:
                self._engine.release(sequence)
        return [list(sequence.tokens) for sequence in sequences]


def _chat(model: LoadedModel, text: str) -> Sequence[int]:
    """A question as a chat where the model has a template that takes it."""
    if model.template is not None:
        try:
            rendered = model.template.render([Message("user", text)])
            return model.tokenizer.encode(rendered, add_special=True, parse_special=True)
        except HaloError:  # a template that wants something else: a plain text will do
            pass
    return _plain(model, text)


def _plain(model: LoadedModel, text: str) -> Sequence[int]:
    tokens = model.tokenizer.encode(text, add_special=True)
    if not tokens and model.tokenizer.bos_id is not None:
        return [model.tokenizer.bos_id]
    return tokens

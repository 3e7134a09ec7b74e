"""From a prompt to text: one sequence driven to its end, with its figures.

This is where tokens become characters and stop strings end a generation.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass, field

from halo_edge.engine.engine import Engine
from halo_edge.engine.sampling import Sampled, SamplingParams
from halo_edge.engine.sequence import FinishReason, Sequence
from halo_edge.engine.text_stream import TextStream
from halo_edge.model.tokenizer import Tokenizer


@dataclass
class Generation:
    """A generation while it runs, and its figures once it has ended.

    `times_s` holds the moment each token came; `started_s` when the prompt was handed in.
    """

    sequence: Sequence
    started_s: float
    text: str = ""
    tokens: list[Sampled] = field(default_factory=list)
    times_s: list[float] = field(default_factory=list)
    finish: FinishReason | None = None

    @property
    def ttft_ms(self) -> float | None:
        """Time to the first token, None before it."""
        return (self.times_s[0] - self.started_s) * 1e3 if self.times_s else None

    @property
    def tpot_ms(self) -> float | None:
        """Mean time per token after the first, None for fewer than two tokens."""
        if len(self.times_s) < 2:
            return None
        return (self.times_s[-1] - self.times_s[0]) / (len(self.times_s) - 1) * 1e3


class Answer:
    """The text of one sequence as its tokens come, up to a stop string."""

    def __init__(self, tokenizer: Tokenizer, stop: SequenceOf[str]) -> None:
        self._detokenizer = tokenizer.detokenizer(continues=True)
        self._stream = TextStream(stop)

    def push(self, token_id: int, finish: FinishReason | None) -> tuple[str, FinishReason | None]:
        """Take the next token, the last one if there is a `finish`: text that has become certain,
        and why the answer ends, if it does."""
        piece = self._stream.push(self._detokenizer.push(token_id))
        if finish is not None:
            piece += self._stream.push(self._detokenizer.flush()) + self._stream.flush()
        return piece, FinishReason.STOP if self._stream.stopped else finish


class Generator:
    """Generates text with an engine that nobody else drives meanwhile.

    `clock` gives seconds from any origin.
    """

    def __init__(
        self,
        engine: Engine,
        tokenizer: Tokenizer,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._engine = engine
        self._tokenizer = tokenizer
        self._clock = clock

    def start(self, prompt: SequenceOf[int], params: SamplingParams) -> Generation:
        """Queue a prompt. Raises `HaloError` as `Engine.add` does."""
        started = self._clock()
        return Generation(self._engine.add(prompt, params), started)

    def run(self, generation: Generation) -> Iterator[str]:
        """Text as it becomes certain, until the generation has ended. Raises `HaloError` where it
        cannot go on."""
        sequence = generation.sequence
        answer = Answer(self._tokenizer, sequence.params.stop)
        try:
            while generation.finish is None:
                new_tokens = self._engine.step()
                if sequence.error is not None:
                    raise sequence.error
                for new in new_tokens:
                    generation.times_s.append(self._clock())
                    generation.tokens.append(new.sampled)
                    piece, generation.finish = answer.push(new.sampled.token_id, sequence.finish)
                    generation.text += piece
                    if piece:
                        yield piece
        finally:
            self._engine.end(sequence)

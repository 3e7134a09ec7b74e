"""A text cut in windows, and every token of them scored by the model.

The text is cut in windows of `context` tokens, each computed afresh; the second half of each is
scored, as llama.cpp's `llama-perplexity` does: logits at positions context/2 .. context-2, so that
every scored token has seen at least half a window. What is made of the scores (perplexity, KL) is
other files' business.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from halo_edge.engine.forward import Forward, Rows
from halo_edge.engine.gather import Gather
from halo_edge.engine.kv_cells import SequenceId
from halo_edge.errors import HaloError
from halo_edge.model.tokenizer import Tokenizer

MIN_CONTEXT: Final = 8
# Of a text that is not needed to its end so much is looked at first. Four are usual; a few tokens
# before the cut may be others than in the whole.
_CHARACTERS_PER_TOKEN: Final = 12
_SPARE_TOKENS: Final = 64
_SEQUENCE: Final = SequenceId(0)


@dataclass(frozen=True)
class Scope:
    """What of a text is scored, and how. `first`: windows left out before. `windows`: at most so
    many (None: to the end). `step_tokens`: tokens computed in a step; 1 is decode, as if each token
    had been generated (None: as many as a step takes)."""

    context: int
    first: int = 0
    windows: int | None = None
    step_tokens: int | None = None


class Judge(Protocol):
    """Is shown the logits of every scored position, in order."""

    def judge(self, logits: NDArray[np.float32]) -> None:
        """`logits`: f32[n, vocab] of the next n positions, valid during the call."""


@dataclass(frozen=True, eq=False)
class Window:
    """`losses`: f64[context - 1 - context // 2], negative log-likelihoods of the scored tokens, in
    nats. `steps_s`: how long each step took."""

    losses: NDArray[np.float64]
    steps_s: tuple[float, ...]


def cut(tokenizer: Tokenizer, text: str, scope: Scope) -> list[list[int]]:
    """The windows of `scope`.

    Raises `HaloError` if there is none, or they are too small to score.
    """
    context = scope.context
    if context < MIN_CONTEXT:
        raise HaloError(f"--ctx must be at least {MIN_CONTEXT} to score anything")
    tokens = _encoded(tokenizer, text, scope)
    available = len(tokens) // context
    if available <= scope.first:
        raise HaloError(
            f"the text has {len(tokens)} tokens, fewer than {scope.first + 1} chunk(s) of "
            f"{context}; use a longer text or a smaller --ctx"
        )
    stop = available if scope.windows is None else min(available, scope.first + scope.windows)
    windows = [tokens[i * context : (i + 1) * context] for i in range(scope.first, stop)]
    if tokenizer.add_bos and tokenizer.bos_id is not None:
        for window in windows:
            window[0] = tokenizer.bos_id
    return windows


def _encoded(tokenizer: Tokenizer, text: str, scope: Scope) -> list[int]:
    """All of the text, or as much as there are windows in: a book takes hundreds of megabytes."""
    if scope.windows is not None:
        needed = (scope.first + scope.windows) * scope.context + _SPARE_TOKENS
        tokens = tokenizer.encode(text[: _CHARACTERS_PER_TOKEN * needed], add_special=True)
        if len(tokens) >= needed:
            return tokens
    return tokenizer.encode(text, add_special=True)


def scored_positions(context: int) -> int:
    """Of each window."""
    return context - 1 - context // 2


def score(
    forward: Forward,
    gather: Gather,
    windows: SequenceOf[SequenceOf[int]],
    *,
    step_tokens: int | None = None,
    judges: SequenceOf[Judge] = (),
    clock: Callable[[], float] = time.perf_counter,
) -> Iterator[Window]:
    """One window after another. `clock`: seconds. Raises `HaloError` as `Forward.step` does."""
    limit = min(step_tokens or forward.max_tokens, forward.max_tokens)
    for window in windows:
        yield _score(forward, gather, window, limit, judges, clock)


def _score(
    forward: Forward,
    gather: Gather,
    window: SequenceOf[int],
    limit: int,
    judges: SequenceOf[Judge],
    clock: Callable[[], float],
) -> Window:
    first = len(window) // 2
    losses, steps_s = [], []
    try:
        for start in range(0, len(window), limit):
            part = window[start : start + limit]
            stop = start + len(part)
            outputs = min(max(stop - first, 0), len(part))
            begun = clock()
            logits = forward.step([Rows(_SEQUENCE, part, start, outputs)], gather)
            steps_s.append(clock() - begun)
            targets = window[stop - outputs + 1 : stop + 1]  # the last position of all has none
            if targets:
                scored = logits[: len(targets)]
                losses.append(_negative_log_likelihood(scored, targets))
                for judge in judges:
                    judge.judge(scored)
    finally:
        forward.cells.release(_SEQUENCE)
    return Window(np.concatenate(losses), tuple(steps_s))


def _negative_log_likelihood(
    logits: NDArray[np.float32], targets: SequenceOf[int]
) -> NDArray[np.float64]:
    """`logits`: f32[n, vocab]; row by row, as f64 copies of all would be large."""
    losses = np.empty(len(targets), np.float64)
    for i, (row, target) in enumerate(zip(logits, targets, strict=True)):
        top = row.max()
        losses[i] = math.log(np.exp((row - top).astype(np.float64)).sum()) + float(
            top - row[target]
        )
    return losses

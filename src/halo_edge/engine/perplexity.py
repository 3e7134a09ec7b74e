"""Perplexity of a text, as llama.cpp's `llama-perplexity` gives it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass

import numpy as np

from halo_edge.engine.forward import Forward
from halo_edge.engine.gather import Gather
from halo_edge.engine.windows import Judge, Scope, Window, cut, score
from halo_edge.model.tokenizer import Tokenizer


@dataclass(frozen=True)
class Perplexity:
    """After `chunks` windows: exp of the mean negative log-likelihood in nats, and its standard
    error.
    """

    ppl: float
    stderr: float
    tokens: int
    chunks: int

    @classmethod
    def of(cls, windows: SequenceOf[Window]) -> Perplexity:
        """Raises ValueError for no windows."""
        losses = np.concatenate([window.losses for window in windows])
        ppl = math.exp(losses.mean())
        stderr = ppl * losses.std() / math.sqrt(len(losses) - 1)
        return cls(ppl, float(stderr), len(losses), len(windows))


def perplexity(
    forward: Forward,
    gather: Gather,
    tokenizer: Tokenizer,
    text: str,
    scope: Scope,
    judges: SequenceOf[Judge] = (),
) -> Iterator[Perplexity]:
    """The running figure after each window.

    Raises `HaloError` if the text is shorter than one window or the context too small to score.
    """
    windows = cut(tokenizer, text, scope)
    done: list[Window] = []
    for window in score(forward, gather, windows, step_tokens=scope.step_tokens, judges=judges):
        done.append(window)
        yield Perplexity.of(done)

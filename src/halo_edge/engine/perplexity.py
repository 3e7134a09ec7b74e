"""Perplexity of a text, scored as llama.cpp's `llama-perplexity` does.

The text is cut in chunks of `context` tokens, each computed afresh; the second half of each is
scored: logits at positions context/2 .. context-2, so that every scored token has seen at least
half a chunk.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from halo_edge.engine.forward import Forward, Rows
from halo_edge.engine.gather import Gather
from halo_edge.engine.kv_cells import SequenceId
from halo_edge.errors import HaloError
from halo_edge.model.tokenizer import Tokenizer


@dataclass(frozen=True)
class Perplexity:
    """After `chunks` chunks: exp of the mean negative log-likelihood in nats, and its standard
    error.
    """

    ppl: float
    stderr: float
    tokens: int
    chunks: int


def perplexity(
    forward: Forward,
    gather: Gather,
    tokenizer: Tokenizer,
    text: str,
    *,
    context: int,
    max_chunks: int | None,
) -> Iterator[Perplexity]:
    """The running figure after each chunk.

    Raises `HaloError` if the text is shorter than one chunk or the context too small to score.
    """
    if context < 8:
        raise HaloError("--ctx must be at least 8 to score anything")
    tokens = tokenizer.encode(text, add_special=True)
    available = len(tokens) // context
    if not available:
        raise HaloError(
            f"the text has {len(tokens)} tokens, fewer than one chunk of {context}; "
            f"use a longer text or a smaller --ctx"
        )
    total = total_squared = 0.0
    count = 0
    for i in range(available if max_chunks is None else min(max_chunks, available)):
        chunk = tokens[i * context : (i + 1) * context]
        if tokenizer.add_bos and tokenizer.bos_id is not None:
            chunk[0] = tokenizer.bos_id
        losses = _score(forward, gather, chunk)
        total += float(losses.sum())
        total_squared += float((losses**2).sum())
        count += len(losses)
        mean = total / count
        variance = total_squared / count - mean**2
        ppl = math.exp(mean)
        stderr = ppl * math.sqrt(max(variance, 0.0) / (count - 1))
        yield Perplexity(ppl, stderr, count, i + 1)


def _score(forward: Forward, gather: Gather, chunk: SequenceOf[int]) -> NDArray[np.float64]:
    """Negative log-likelihoods, f64[context - 1 - context // 2], of the chunk's second half."""
    sequence = SequenceId(0)
    first = len(chunk) // 2
    losses = []
    try:
        for start in range(0, len(chunk), forward.max_tokens):
            part = chunk[start : start + forward.max_tokens]
            stop = start + len(part)
            outputs = min(max(stop - first, 0), len(part))
            logits = forward.step([Rows(sequence, part, start, outputs)], gather)
            targets = chunk[stop - outputs + 1 : stop + 1]  # the last position of all has none
            losses.append(_negative_log_likelihood(logits[: len(targets)], targets))
    finally:
        forward.cells.release(sequence)
    return np.concatenate(losses)


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

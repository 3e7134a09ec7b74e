"""Choose the next token of one sequence from its logits.

The filters, their order and their defaults are llama.cpp's (its default chain, restricted to
penalties, top-k, top-p, min-p, temperature), so that the same settings mean the same here: top-p
and min-p see the probabilities at temperature 1. Log-probabilities are vLLM's: of the raw logits,
before any filter.

This runs once a token over the whole vocabulary, so it never sorts more than the tokens that can
still be chosen. It knows nothing of models, tokenizers, text, or other sequences.
"""

from __future__ import annotations

import math
import reprlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from halo_edge.engine.constraint import Constraint
from halo_edge.errors import HaloError

FloatVector = NDArray[np.float32]
TokenIds = NDArray[np.intp]

# Below this, dividing by the temperature leaves one token anyway (vLLM's _SAMPLING_EPS).
GREEDY_BELOW = 1e-5
# OpenAI's and vLLM's bound on `logprobs`.
MAX_LOGPROBS = 20
# Every stop string is compared with every piece of text; OpenAI allows 4 of them.
MAX_STOPS = 16
MAX_STOP_CHARS = 256
# `_largest` looks for its lower bound among this many maxima, when the vocabulary is several times
# as large and k several times as small; a sixth of argpartition's time without AVX-512 kernels.
GROUPS = 1024
FLOAT32_MAX = float(np.finfo(np.float32).max)


@dataclass(frozen=True)
class SamplingParams:
    """How the tokens of one sequence are chosen, and when to stop.

    Raises HaloError, on one line that names every bad value.
    """

    temperature: float = 0.8  # 0: greedy
    top_k: int = 40  # 0 or -1: off
    top_p: float = 0.95  # in (0, 1]; 1: off
    min_p: float = 0.05  # in [0, 1], relative to the likeliest token; 0: off
    repetition_penalty: float = 1.0  # above 0; 1: off
    repetition_window: int = 64  # tokens, the prompt's included; 0: off, -1: all
    presence_penalty: float = 0.0  # in [-2, 2], off the logit of what was generated before; 0: off
    frequency_penalty: float = 0.0  # in [-2, 2], for each time it was; 0: off
    seed: int | None = None  # None or -1: another one each time
    max_tokens: int | None = None  # None: until the context is full
    stop: tuple[str, ...] = ()
    logprobs: int | None = None  # None: off; 0: of the chosen token; n: of the n likeliest also

    def __post_init__(self) -> None:
        # Written so that NaN, for which every comparison is false, fails.
        rules = (
            ("temperature", 0 <= self.temperature < math.inf, "0 (greedy) or more"),
            ("top_k", self.top_k >= -1, "1 or more, or 0 (off)"),
            ("top_p", 0 < self.top_p <= 1, "above 0 and at most 1 (off)"),
            ("min_p", 0 <= self.min_p <= 1, "between 0 (off) and 1"),
            ("repetition_penalty", 0 < self.repetition_penalty < math.inf, "above 0 (1 is off)"),
            ("repetition_window", self.repetition_window >= -1, "0 (off) or more, or -1 (all)"),
            ("presence_penalty", -2 <= self.presence_penalty <= 2, "between -2 and 2"),
            ("frequency_penalty", -2 <= self.frequency_penalty <= 2, "between -2 and 2"),
            (
                "seed",
                self.seed is None or -1 <= self.seed < 2**64,
                "between 0 and 2^64 - 1, or -1 (random)",
            ),
            ("max_tokens", self.max_tokens is None or self.max_tokens >= 1, "1 or more"),
            (
                "stop",
                len(self.stop) <= MAX_STOPS
                and all(1 <= len(text) <= MAX_STOP_CHARS for text in self.stop),
                f"at most {MAX_STOPS} strings of 1 to {MAX_STOP_CHARS} characters",
            ),
            (
                "logprobs",
                self.logprobs is None or 0 <= self.logprobs <= MAX_LOGPROBS,
                f"between 0 and {MAX_LOGPROBS}",
            ),
        )
        bad = [
            f"{name} is {reprlib.repr(getattr(self, name))} but must be {range_}"
            for name, good, range_ in rules
            if not good
        ]
        if bad:
            raise HaloError("; ".join(bad))

    @property
    def greedy(self) -> bool:
        """Whether the likeliest token is taken and nothing is random."""
        return self.temperature < GREEDY_BELOW


@dataclass(frozen=True)
class Sampled:
    """One chosen token.

    `logprob` and `top_logprobs` (token id, nats; likeliest first) are of the raw logits' softmax,
    and are there only when SamplingParams.logprobs asks for them.
    """

    token_id: int
    logprob: float | None = None
    top_logprobs: tuple[tuple[int, float], ...] = ()


class Sampler:
    """Chooses the tokens of one sequence; holds its random state, and what it chose so far.

    The same seed, logits and history give the same tokens. Ties go to the lower token id.
    """

    def __init__(self, params: SamplingParams, constraint: Constraint | None = None) -> None:
        """`constraint`: is asked before every token, and told which one came."""
        self._params = params
        self._constraint = constraint
        seed = None if params.seed == -1 else params.seed
        self._random = np.random.Generator(np.random.PCG64(seed))
        self._chosen: Counter[int] = Counter()

    def sample(self, logits: FloatVector, recent: Sequence[int]) -> Sampled:
        """Choose the next token. `logits`: f32[vocab], not modified and not kept.

        `recent` are the sequence's token ids so far, prompt included (or the last
        `repetition_window` of them, or nothing where the penalty is off).
        Raises HaloError when a logit is NaN or infinite, or a constraint allows nothing.
        """
        best = _argmax_of_finite(logits)
        # Extreme but finite logits may overflow to -inf, which then means what it should: never.
        with np.errstate(over="ignore"):
            values = self._less_what_was(self._penalised(logits, recent))
            if self._constraint is not None:
                ids = self._allowed_by(self._constraint, len(values))
                token_id = int(ids[self._choose(values[ids])])
                self._constraint.accept(token_id)
            elif self._params.greedy and values is logits:
                token_id = best
            else:
                token_id = self._choose(values)
            if self._params.presence_penalty or self._params.frequency_penalty:
                self._chosen[token_id] += 1
            if self._params.logprobs is None:
                return Sampled(token_id)
            return _with_logprobs(token_id, logits, best, self._params.logprobs)

    def _choose(self, values: FloatVector) -> int:
        return int(values.argmax()) if self._params.greedy else self._draw(values)

    @staticmethod
    def _allowed_by(constraint: Constraint, vocab: int) -> TokenIds:
        ids = np.flatnonzero(constraint.allowed())
        ids = ids[: np.searchsorted(ids, vocab)]
        if not len(ids):
            raise HaloError("the answer cannot go on: its format allows none of the model's tokens")
        return ids

    def _penalised(self, logits: FloatVector, recent: Sequence[int]) -> FloatVector:
        """The logits after the repetition penalty (CTRL, arXiv 1909.05858; signs as llama.cpp)."""
        penalty, window = self._params.repetition_penalty, self._params.repetition_window
        if penalty == 1.0 or window == 0 or len(recent) == 0:
            return logits
        seen = np.array(sorted(set(recent if window < 0 else recent[-window:])), dtype=np.intp)
        old = logits[seen].astype(np.float64)
        new = np.where(old > 0, old / penalty, old * penalty)
        values = logits.copy()
        values[seen] = np.clip(new, -FLOAT32_MAX, FLOAT32_MAX)
        return values

    def _less_what_was(self, logits: FloatVector) -> FloatVector:
        """The logits after OpenAI's two penalties, which look at generated tokens only."""
        if not self._chosen:
            return logits
        seen = np.fromiter(self._chosen.keys(), np.intp, len(self._chosen))
        often = np.fromiter(self._chosen.values(), np.float64, len(self._chosen))
        values = logits.copy()
        values[seen] -= (
            self._params.presence_penalty + self._params.frequency_penalty * often
        ).astype(np.float32)
        return values

    def _draw(self, values: FloatVector) -> int:
        ids = self._allowed(values)
        kept = values[ids]
        # Infinite as f32, it would make a NaN of an infinite gap.
        temperature = min(self._params.temperature, FLOAT32_MAX)
        weights = np.exp((kept - kept.max()) / temperature).astype(np.float64)
        mass = np.cumsum(weights)
        target = self._random.random() * mass[-1]
        # Without the last edge: rounding up to it must not point behind the last token.
        return int(ids[np.searchsorted(mass[:-1], target, side="right")])

    def _allowed(self, values: FloatVector) -> TokenIds:
        """The ids that pass top-k, top-p and min-p, in that order; at least one."""
        params = self._params
        top, vocab = values.max(), len(values)
        lowest_gap = math.log(params.min_p) if params.min_p > 0 else -math.inf

        if 0 < params.top_k < vocab:
            ids = _largest(values, params.top_k)
            gaps = (values[ids] - top).astype(np.float64)
            total = float(np.exp(gaps).sum())
        else:
            gaps = values - top
            if params.top_p == 1:
                return np.flatnonzero(gaps >= lowest_gap)
            total = float(np.exp(gaps).sum())
            # What is less likely than (1 - p) / vocab has a mass below 1 - p altogether, so
            # it lies outside the nucleus and need not be sorted; nor what min-p will remove.
            # The margin is for the rounding of `total`, a sum in f32.
            tail_gap = math.log((1 - params.top_p) * total / vocab) - 1e-3
            ids = np.flatnonzero(gaps >= max(tail_gap, lowest_gap))
            ids = ids[np.argsort(-values[ids], kind="stable")]
            gaps = gaps[ids].astype(np.float64)

        if params.top_p < 1:
            nucleus = np.searchsorted(np.cumsum(np.exp(gaps)), params.top_p * total) + 1
            ids, gaps = ids[:nucleus], gaps[:nucleus]
        allowed: TokenIds = ids[gaps >= lowest_gap]
        return allowed


def _argmax_of_finite(logits: FloatVector) -> int:
    """The likeliest token. argmax stops at a NaN or +inf, the minimum finds -inf."""
    best = int(logits.argmax())
    if not (math.isfinite(logits[best]) and math.isfinite(logits.min())):
        token_id = int(np.flatnonzero(~np.isfinite(logits))[0])
        raise HaloError(
            f"the model's logits are not finite (token {token_id}: {logits[token_id]}); "
            "the model file may be damaged, pull it again"
        )
    return best


def _largest(values: FloatVector, k: int) -> TokenIds:
    """The ids of the k <= len(values) largest values, falling; of equal ones the lower id first."""
    pool = values
    if 4 * k <= GROUPS and len(values) >= 4 * GROUPS:
        # k groups each hold a value as large as the k-th largest maximum: a lower bound, found in
        # two linear passes, that little more than k values reach.
        rows = len(values) // GROUPS
        pool = values[: rows * GROUPS].reshape(rows, GROUPS).max(axis=0)
    bound = np.partition(pool, len(pool) - k)[len(pool) - k]
    ids = np.flatnonzero(values >= bound)
    return ids[np.argsort(-values[ids], kind="stable")[:k]]


def _with_logprobs(token_id: int, logits: FloatVector, best: int, count: int) -> Sampled:
    top = float(logits[best])
    log_total = top + math.log(float(np.exp(logits - logits[best]).sum()))
    likeliest = _largest(logits, min(count, len(logits))) if count else ()
    return Sampled(
        token_id,
        float(logits[token_id]) - log_total,
        tuple((int(i), float(logits[i]) - log_total) for i in likeliest),
    )

"""How long a worker takes to answer, by the number of tokens.

From the last x sent to the worker to the first chunk of its partial: network and computing
together, which is what the root waits for. Twice the tokens may take twice the time, so there is
an estimator for each power of two of tokens. No clock is read here.
"""

from __future__ import annotations

from halo_edge.sync.timing import (
    K_MAX_SAMPLE_PER_TOKEN_S,
    K_MAX_SAMPLE_S,
    Recovery,
    TimeoutEstimator,
)


class AnswerTimes:
    """One worker's, for 1 ... `max_tokens` tokens."""

    __slots__ = ("_by_bits",)

    def __init__(self, max_tokens: int, recovery: Recovery) -> None:
        self._by_bits = [
            TimeoutEstimator(
                recovery.initial_answer_s + recovery.initial_answer_per_token_s * (1 << bits),
                recovery.floor_s(),
                min_variation_s=recovery.min_variation_s,
                max_sample_s=K_MAX_SAMPLE_S + K_MAX_SAMPLE_PER_TOKEN_S * (1 << bits),
            )
            for bits in range(max_tokens.bit_length() + 1)
        ]

    def of(self, tokens: int) -> TimeoutEstimator:
        """The estimator for rounds of so many tokens."""
        return self._by_bits[tokens.bit_length()]

    def bound_s(self, tokens: int) -> float | None:
        """No answer for so many tokens takes longer, as a rule; None if there has been none at all.

        Where there has been none for so many: fewer tokens take no longer than more do, and more
        take longer by no more than in proportion.
        """
        bits = tokens.bit_length()
        known_s = self._by_bits[bits].bound_s
        if known_s is not None:
            return known_s
        for larger in self._by_bits[bits + 1 :]:
            if larger.bound_s is not None:
                return larger.bound_s
        for fewer_bits in range(bits - 1, -1, -1):
            fewer_s = self._by_bits[fewer_bits].bound_s
            if fewer_s is not None:  # 2^bits - 1 tokens here, at least 2^(fewer_bits - 1) there
                return fewer_s * (1 << bits - fewer_bits + 1)
        return None

    def mean_s(self, tokens: int) -> float | None:
        """How long an answer takes on average; None if there has been none for so many tokens."""
        return self._by_bits[tokens.bit_length()].mean_s

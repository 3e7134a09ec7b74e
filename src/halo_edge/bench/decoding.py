"""Decoding against the clock: the times between tokens, and an end when the time is up."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from halo_edge.bench.median import Reading
from halo_edge.cluster.session import Session
from halo_edge.engine.engine import Engine
from halo_edge.engine.sampling import FloatVector, Sampled, Sampler, SamplingParams
from halo_edge.engine.sequence import Sequence as TokenSequence
from halo_edge.errors import HaloError
from halo_edge.plan.plan import Plan

PROMPT: Final = tuple(range(10, 18))
# Decoded and thrown away before what is measured: caches, timers and TCP's windows are warm then.
WARM_TOKENS: Final = 3
# Of prompt, warm tokens and measured tokens.
CONTEXT: Final = 512
# Log-probabilities differ as their logits do.
GREEDY: Final = SamplingParams(temperature=0, logprobs=2)


@dataclass(frozen=True)
class Decoding:
    """`gaps_ms`: from each token to the next. `waited_ms`: how long the token was waited for that
    did not come in time; None when all came. Of each token that came: `tokens`, the best;
    `margins`, by how much its logit was above the second. `switched`: places of the first with
    another plan. `text`: with which tokens it went on, from the prompt's end."""

    gaps_ms: tuple[float, ...]
    waited_ms: float | None = None
    tokens: tuple[int, ...] = ()
    margins: tuple[float, ...] = ()
    switched: tuple[int, ...] = ()
    text: tuple[int, ...] = ()

    @property
    def tpot(self) -> Reading:
        """Mean time per token, ms. Cut short, it is over the tokens that came and the one that was
        waited for: their true mean is that or more."""
        if self.waited_ms is not None:
            total = sum(self.gaps_ms) + self.waited_ms
            return Reading(total / (len(self.gaps_ms) + 1), cut_short=True)
        return Reading(sum(self.gaps_ms) / len(self.gaps_ms))

    def __str__(self) -> str:
        tpot = self.tpot
        if tpot.cut_short:
            return f"over {tpot.value:.0f} ms a token ({len(self.gaps_ms)} in time)"
        return f"{tpot.value:.1f} ms a token"


def gap_percentile(decodings: Sequence[Decoding], percent: float) -> float:
    """Over all gaps, ms. A token that did not come in time counts as long as it was waited for."""
    gaps = [gap for decoding in decodings for gap in decoding.gaps_ms]
    gaps += [decoding.waited_ms for decoding in decodings if decoding.waited_ms is not None]
    return float(np.percentile(gaps, percent))


class Decoder:
    """Decodes greedily with a session that nobody else uses, again and again the same prompt.

    The text may be anything: random weights say nothing, and no token ends it. `clock`: seconds.
    """

    def __init__(
        self, session: Session, context: int = CONTEXT, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._engine = Engine(
            session.model.forward, session.gather, context=context, end_tokens=frozenset()
        )
        self._cluster = session.cluster
        self._context = context
        self._clock = clock
        self._sequence: TokenSequence | None = None

    def prepare(self, follow: Iterable[int] = ()) -> None:
        """Begin anew: prompt and warm tokens. Whatever is best, the text goes on with the tokens of
        `follow`, as long as there are any. Raises `HaloError` as `Engine.step` does."""
        self.release()
        self._sequence = self._engine.add(PROMPT, GREEDY)
        self._sequence.sampler = _Following(follow)
        for _ in range(1 + WARM_TOKENS):
            self._token()

    def release(self) -> None:
        """Free the KV cache. `prepare` begins anew."""
        if self._sequence is not None:
            self._engine.release(self._sequence)
            self._sequence = None

    def decode(self, tokens: int, limit_s: float, settle: int = 0) -> Decoding:
        """So many more tokens, but none later than `limit_s`; at least one is waited for. Of the
        first `settle`, which come in addition, only the time counts, towards the limit.

        Raises `HaloError` as `Engine.step` does, and where they do not fit into the context.
        """
        if len(PROMPT) + 1 + WARM_TOKENS + settle + tokens > self._context:
            raise HaloError(f"{tokens} tokens are too many for a context of {self._context}")
        gaps_ms: list[float] = []
        tops: list[tuple[tuple[int, float], ...]] = []
        switched: list[int] = []

        def decoding(waited_ms: float | None = None) -> Decoding:
            return Decoding(
                tuple(gaps_ms),
                waited_ms,
                tuple(best for (best, _), _ in tops),
                tuple(best - second for (_, best), (_, second) in tops),
                tuple(switched),
                () if self._sequence is None else tuple(self._sequence.generated),
            )

        begun = before = self._clock()
        for _ in range(settle):
            self._token()
            before = self._clock()
            if before - begun > limit_s:
                return Decoding((), limit_s * 1e3)
        plan = self._plan
        for place in range(tokens):
            token = self._token()
            if self._plan is not plan:
                plan = self._plan
                switched.append(place)
            now = self._clock()
            if now - begun > limit_s:
                # When it came after the time was up says how long the measurement was cleared
                # away, not how long it would have taken.
                waited_s = max(begun + limit_s - before, 0.0)
                return decoding(waited_s * 1e3)
            gaps_ms.append((now - before) * 1e3)
            tops.append(token.top_logprobs)
            before = now
        return decoding()

    @property
    def _plan(self) -> Plan | None:
        return None if self._cluster is None else self._cluster.plan

    def _token(self) -> Sampled:
        while not (new := self._engine.step()):
            pass
        return new[0].sampled


class _Following(Sampler):
    """So that each choice has the same text before it as another's."""

    def __init__(self, follow: Iterable[int]) -> None:
        super().__init__(GREEDY)
        self._follow = iter(follow)

    def sample(self, logits: FloatVector, recent: Sequence[int]) -> Sampled:
        sampled = super().sample(logits, recent)
        return replace(sampled, token_id=next(self._follow, sampled.token_id))

"""Text scored in the lab under some conditions, and compared with the strict run over clean links.

Both go through the same session: the same processes, shards and rounding. So the difference is
what was lost on the way and gone on without.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec
import numpy as np

from halo_edge.bench.cost import Cost
from halo_edge.bench.lab_cluster import LabCluster, Links
from halo_edge.bench.policies import DELAY_MS
from halo_edge.bench.probe_messages import Base, Score, Scored
from halo_edge.cluster.relaxation import RelaxOptions
from halo_edge.engine.engine import PREFILL_CHUNK
from halo_edge.engine.kl import Divergence
from halo_edge.lab.link import LinkSettings

WINDOW: Final = 512  # tokens of a chunk of text, as in llama.cpp's own measurements
QUICK_WINDOW: Final = 128
DECODE_STEP: Final = 1
PREFILL_STEP: Final = PREFILL_CHUNK
CLEAN: Final = Links(LinkSettings(delay_ms=DELAY_MS))
# What a budget promises: that the damage is no more than that of what it reports, and that what it
# reports is no more than that of the damage.
UNDERSTATED: Final = 1.5
UNDERSTATED_NATS: Final = 0.002
OVERSTATED: Final = 3.0


@dataclass(frozen=True)
class Sample:
    """Of the same windows: the strict run, and another."""

    base: Scored
    scored: Scored

    def __str__(self) -> str:
        spent, tokens = self.scored.spent, self.scored.tokens
        return (
            f"KL {np.mean(self.scored.kls):.5f}, {spent.nats / tokens:.5f} nats reported, "
            f"{sum(self.scored.steps_ms) / tokens:.1f} ms a token"
        )


@dataclass(frozen=True)
class Comparison:
    """A run against the strict one. `ppl_change`: 0.01 for +1 %; its standard error is that of the
    mean of differences position by position. `cost`: of a mean token. `tpot_ms`, `strict_tpot_ms`:
    of every token computed; `max_step_ms`: the longest step."""

    ppl_change: float
    ppl_change_stderr: float
    divergence: Divergence
    cost: Cost
    tpot_ms: float
    strict_tpot_ms: float
    max_step_ms: float

    @classmethod
    def of(cls, samples: Sequence[Sample]) -> Comparison:
        """Of all their windows together. Raises ValueError for none."""
        after = np.concatenate([sample.scored.losses for sample in samples])
        before = np.concatenate([sample.base.losses for sample in samples])
        change, ratio = after - before, math.exp((after - before).mean())
        kls = np.concatenate([sample.scored.kls for sample in samples])
        tokens = sum(sample.scored.tokens for sample in samples)
        steps_ms = [step_ms for sample in samples for step_ms in sample.scored.steps_ms]
        return cls(
            ppl_change=ratio - 1,
            ppl_change_stderr=ratio * float(change.std(ddof=1)) / math.sqrt(len(change)),
            divergence=Divergence.of(kls, sum(sample.scored.same_top for sample in samples)),
            cost=Cost.of([sample.scored.spent for sample in samples], tokens),
            tpot_ms=sum(steps_ms) / tokens,
            strict_tpot_ms=sum(sum(sample.base.steps_ms) for sample in samples) / tokens,
            max_step_ms=max(steps_ms),
        )

    @property
    def honest(self) -> bool:
        """Whether what was reported says what it cost."""
        measured, reported = self.divergence.kl, self.cost.nats
        return (
            measured <= UNDERSTATED * reported + UNDERSTATED_NATS
            and reported <= OVERSTATED * measured
        )


class Comparer:
    """Compares blocks of so many windows of a text, through one cluster."""

    def __init__(
        self,
        cluster: LabCluster,
        text: Path,
        context: int,
        windows: int,
        clean: Links | None = CLEAN,
    ) -> None:
        """`clean`: for the strict runs, which make losses good; None: the links as declared."""
        self._clean = clean
        self._cluster = cluster
        self._text = str(text.resolve())
        self._context = context
        self._windows = windows
        self._bases: dict[tuple[int, int], Scored] = {}
        self._compared: Counter[Hashable] = Counter()

    def compare(
        self,
        case: Hashable,
        relax: RelaxOptions,
        links: Links | None,
        step_tokens: int = DECODE_STEP,
        *,
        skip: int = 0,
        learn: int = 0,
        nudged: bool = False,
    ) -> Sample:
        """The next block for this case. The first follows `skip` windows of the text, of which
        `learn` are scored before each block under the same conditions. `nudged`: the control.

        Raises `HaloError` as `LabCluster.score` does.
        """
        first = skip + self._compared[case] * self._windows
        self._compared[case] += 1
        base = self._base(first, step_tokens)
        self._cluster.relax(relax)
        if learn:
            self._cluster.score(links, self._request(0, learn, step_tokens, Base.NONE))
        request = self._request(first, self._windows, step_tokens, Base.COMPARE)
        request = msgspec.structs.replace(request, nudged=nudged)
        return Sample(base, self._cluster.score(links, request))

    def _base(self, first: int, step_tokens: int) -> Scored:
        """Scored when it is first needed."""
        base = self._bases.get((first, step_tokens))
        if base is None:
            self._cluster.relax(RelaxOptions())
            request = self._request(first, self._windows, step_tokens, Base.KEEP)
            base = self._bases[first, step_tokens] = self._cluster.score(self._clean, request)
        return base

    def _request(self, first: int, windows: int, step_tokens: int, base: Base) -> Score:
        return Score(self._text, self._context, first, windows, step_tokens, base)

"""What is made of the times at which the tokens of several streams came.

Knows no lab, no server and no case.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain, pairwise
from statistics import median

from halo_edge.bench.http_client import Came
from halo_edge.bench.median import Reading


@dataclass(frozen=True)
class Sample:
    """`tpot_ms`: of a stream; `tokens_per_s`: of all together; `unevenness`: p99 gap / median gap
    of the stream where that is most. `run_ms`: TPOT of `halo run`; `overhead`: how often that
    serving took. `before_ms`, `during_ms`: the longest gap of any stream, before the prompt came
    and while it was computed; `usual_added_ms`: what it added to the median of all streams' gaps;
    `ttft_s`: its own."""

    tpot_ms: float
    tokens_per_s: float
    unevenness: float
    run_ms: float | None = None
    overhead: float | None = None
    before_ms: float | None = None
    during_ms: float | None = None
    usual_added_ms: float | None = None
    ttft_s: Reading | None = None

    @property
    def added_ms(self) -> float | None:
        """To the longest gap, by the prompt."""
        if self.before_ms is None or self.during_ms is None:
            return None
        return self.during_ms - self.before_ms

    def __str__(self) -> str:
        return f"{self.tokens_per_s:.1f} tokens/s, TPOT {self.tpot_ms:.0f} ms"


def sample_of(came: Came, *, with_prompt: bool) -> Sample:
    """Of the time in which all streams went on undisturbed, but for what the prompt did.
    `with_prompt`: one came in the middle."""
    begin_s, end_s = came.begin_s, came.undisturbed_s
    gaps = [_gaps(times, begin_s, end_s) for times in came.streams]
    tokens = sum(begin_s < at_s <= end_s for times in came.streams for at_s in times)
    sample = Sample(
        tpot_ms=1e3 * median(sum(each) / len(each) for each in gaps),
        tokens_per_s=tokens / (end_s - begin_s),
        unevenness=max(p99(each) / median(each) for each in gaps),
    )
    if not with_prompt:
        return sample
    until_s = came.end_s if came.first_s is None else came.first_s
    during = [_gaps_over(times, end_s, until_s) for times in came.streams]
    before_s, during_s = list(chain(*gaps)), list(chain(*during))
    return replace(
        sample,
        before_ms=1e3 * max(before_s),
        during_ms=1e3 * max(during_s, default=0.0),
        usual_added_ms=1e3 * (median(during_s) - median(before_s)) if during_s else None,
        ttft_s=Reading(until_s - end_s, cut_short=came.first_s is None),
    )


def p99(gaps: Sequence[float]) -> float:
    """The smallest that at most one in a hundred exceeds; of fewer than a hundred the longest."""
    return sorted(gaps)[math.ceil(0.99 * len(gaps)) - 1]


def _gaps(times: Sequence[float], begin_s: float, end_s: float) -> list[float]:
    """Between tokens of that time."""
    within = [at_s for at_s in times if begin_s <= at_s <= end_s]
    return [after - before for before, after in pairwise(within)]


def _gaps_over(times: Sequence[float], begin_s: float, end_s: float) -> list[float]:
    """Those of which a part is of that time."""
    return [
        after - before for before, after in pairwise(times) if after > begin_s and before < end_s
    ]


def joined(samples: Sequence[Sample], run_ms: Sequence[float]) -> Sample:
    """Of several servers one after the other, each after a `halo run`, if any."""
    if not run_ms:
        (only,) = samples
        return only
    return Sample(
        tpot_ms=median(sample.tpot_ms for sample in samples),
        tokens_per_s=median(sample.tokens_per_s for sample in samples),
        unevenness=median(sample.unevenness for sample in samples),
        run_ms=median(run_ms),
        overhead=median(
            sample.tpot_ms / alone for sample, alone in zip(samples, run_ms, strict=True)
        ),
    )

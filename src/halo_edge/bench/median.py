"""Medians of a few measurements with their confidence intervals, also of measurements cut short.

The interval is between two order statistics: for measurements that are independent and alike, the
median lies between the k-th smallest and the k-th largest of n with probability
1 - 2 P(Binomial(n, 1/2) < k), whatever their distribution (David and Nagaraja, Order Statistics,
section 7.1). Among the intervals that reach 95 % the narrowest is taken. With fewer than six
measurements none does: then it is their whole range, with the confidence that this has (94 % with
five, 75 % with three). A bootstrap would print 95 % here too, and mean less: it knows no more of
the distribution than the few values do.

A measurement that was stopped when its time was up says that it would have taken so long or longer.
Nothing here knows what is measured.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Final

CONFIDENCE: Final = 0.95


@dataclass(frozen=True)
class Reading:
    """What one measurement gave. `cut_short`: it would have been `value` or more."""

    value: float
    cut_short: bool = False


@dataclass(frozen=True)
class Interval:
    """`confidence`: the probability, 0 to 1, with which it holds the median. `high` is None where
    measurements cut short leave it open."""

    low: float
    high: float | None
    confidence: float


@dataclass(frozen=True)
class Median:
    """`value` is None where measurements cut short leave no more to say than `at_least`, which is
    None otherwise. `interval` is None for a single measurement."""

    value: float | None
    at_least: float | None
    interval: Interval | None
    repetitions: int


def median_of(readings: Sequence[Reading]) -> Median:
    """Raises ValueError for no readings at all."""
    if not readings:
        raise ValueError("the median of nothing")
    lowest = sorted(reading.value for reading in readings)
    highest = sorted(math.inf if reading.cut_short else reading.value for reading in readings)
    low, high = median(lowest), median(highest)
    # As if those cut short had ended at once, and as if never: where both give the same median, it
    # is the median however long they would have taken.
    known = low == high
    return Median(
        value=low if known else None,
        at_least=None if known else low,
        interval=_interval(lowest, highest),
        repetitions=len(readings),
    )


def coverage(n: int, k: int) -> float:
    """The probability that the median lies between the k-th smallest and k-th largest of n."""
    return 1 - 2 * sum(math.comb(n, i) for i in range(k)) / float(2**n)


def _interval(lowest: Sequence[float], highest: Sequence[float]) -> Interval | None:
    n = len(lowest)
    if n < 2:
        return None
    wide_enough = (k for k in range(n // 2, 0, -1) if coverage(n, k) >= CONFIDENCE)
    k = next(wide_enough, 1)
    high = highest[n - k]
    return Interval(lowest[k - 1], high if math.isfinite(high) else None, coverage(n, k))

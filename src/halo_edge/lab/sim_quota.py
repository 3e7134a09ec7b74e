"""A CPU quota as Linux keeps it (CFS bandwidth control), in virtual time.

The kernel hands a group `quota_s` of CPU time at the beginning of every `period_s`. It counts what
was used when the group goes to sleep, and else only at the timer tick: a busy group overdraws by
up to a tick, and pays that back before it runs again. What is left when it goes to sleep it may
keep, up to a millisecond, beyond the period. With 250 ticks a second, a busy group that has 2 ms
of every 5 runs for 1.5 to 4.5 ms at a time and then waits for 1.5 to 7.5 (measured).

Source: Linux, kernel/sched/fair.c: `__account_cfs_rq_runtime`, `return_cfs_rq_runtime`,
`do_sched_cfs_period_timer`. Nothing here knows of devices.
"""

from __future__ import annotations

import math
from typing import Final

KEPT_S: Final = 0.001  # min_cfs_rq_runtime
SLICE_S: Final = 0.005  # sched_cfs_bandwidth_slice: taken from the period's budget at a time
_ROUNDING_S: Final = 1e-9


class Quota:
    """The budget of a group with one thread. Times only go forward."""

    def __init__(self, quota_s: float, period_s: float, *, phase_s: float, tick_s: float) -> None:
        """`phase_s`: when some period begins. `tick_s`: between two counts; 0: always counted."""
        self._quota_s = quota_s
        self._period_s = period_s
        self._phase_s = phase_s
        self._tick_s = tick_s
        self._period: int | None = None  # the last one whose budget was handed out
        self._pool_s = 0.0  # of the period's budget, what nobody took
        self._local_s = 0.0  # taken and not used; below 0: overdrawn

    def may_run(self, now: float) -> bool:
        """Whether there is budget. A thread that runs is asked at `checked_at` only."""
        self._refill(now)
        self._take_if_spent()
        return self._local_s > _ROUNDING_S

    def use(self, seconds: float, now: float) -> None:
        """The thread has run for so long up to `now`."""
        self._local_s -= seconds
        self._refill(now)
        self._take_if_spent()

    def sleep(self) -> None:
        """The thread waits for something: what it may not keep goes back."""
        if self._local_s > KEPT_S:
            self._pool_s += self._local_s - KEPT_S
            self._local_s = KEPT_S

    def checked_at(self, now: float) -> float:
        """A thread that runs from `now` on is not stopped before then."""
        return next_tick(now + self._local_s + self._pool_s, self._tick_s)

    def next_period(self, now: float) -> float:
        """When there may be budget again; later than `now`."""
        begins = self._phase_s + (self._period_of(now) + 1) * self._period_s
        return begins if begins > now else begins + self._period_s

    def _period_of(self, now: float) -> int:
        return math.floor((now - self._phase_s) / self._period_s + 1e-9)

    def _refill(self, now: float) -> None:
        period = self._period_of(now)
        passed = 1 if self._period is None else period - self._period
        self._period = period
        # What is not taken in a period is lost; a debtor takes it, period for period.
        for _ in range(min(passed, 1 + math.ceil(max(-self._local_s, 0.0) / self._quota_s))):
            self._pool_s = self._quota_s
            self._take_if_spent()

    def _take_if_spent(self) -> None:
        if self._local_s <= _ROUNDING_S:
            taken = min(self._pool_s, SLICE_S - self._local_s)
            self._pool_s -= taken
            self._local_s += taken


def next_tick(at: float, tick_s: float) -> float:
    """The first timer tick at `at` or later; `at` itself where there are none."""
    return max(at, math.ceil(at / tick_s - 1e-9) * tick_s) if tick_s else at

"""CPU quotas in virtual time: what a kernel of 250 ticks a second was measured to do."""

from __future__ import annotations

from itertools import pairwise

import pytest

from halo_edge.lab.sim_quota import KEPT_S, Quota, next_tick

TICK_S = 0.004


def ran_by_itself(quota: Quota, until: float, step_s: float = 1e-5) -> list[tuple[float, float]]:
    """A busy thread's (begin, end) of each stretch that it ran, looked at when the kernel does."""
    stretches, now = [], 0.0
    while now < until:
        if not quota.may_run(now):
            now = quota.next_period(now)
            continue
        began = now
        while True:
            checked = max(quota.checked_at(now), now + step_s)
            quota.use(checked - now, checked)
            now = checked
            if not quota.may_run(now):
                break
        stretches.append((began, now))
    return stretches


@pytest.mark.parametrize("tick_s", [0.0, TICK_S])
@pytest.mark.parametrize(("quota_s", "period_s"), [(0.002, 0.005), (0.001, 0.02), (0.0045, 0.005)])
def test_a_busy_thread_gets_its_share(quota_s: float, period_s: float, tick_s: float) -> None:
    stretches = ran_by_itself(Quota(quota_s, period_s, phase_s=0.0013, tick_s=tick_s), 4.0)
    ran_s = sum(end - began for began, end in stretches)
    assert ran_s == pytest.approx(4.0 * quota_s / period_s, rel=0.01)


def test_always_counted_it_runs_for_its_quota_and_waits_for_the_period() -> None:
    stretches = ran_by_itself(Quota(0.002, 0.005, phase_s=0.0, tick_s=0.0), 0.1)
    for i, (began, end) in enumerate(stretches[1:], 1):
        assert began == pytest.approx(i * 0.005)
        assert end - began == pytest.approx(0.002, abs=2e-5)


def test_counted_at_ticks_it_overdraws_and_pays_back() -> None:
    """As measured on Linux 6.18, whose ticks there were 0.46 ms after the beginning of a period."""
    quota = Quota(0.002, 0.005, phase_s=0.004 - 0.00046, tick_s=TICK_S)
    stretches = ran_by_itself(quota, 1.0)[2:]
    ran_ms = [(end - began) * 1e3 for began, end in stretches]
    waits_ms = [(b[0] - a[1]) * 1e3 for a, b in pairwise(stretches)]
    assert {round(ms, 2) for ms in ran_ms} == {1.46, 2.46, 4.46}
    assert {round(ms, 2) for ms in waits_ms} == {2.54, 3.54, 5.54, 7.54}
    for _, end in stretches:
        assert end == pytest.approx(next_tick(end, TICK_S))


def test_a_sleeper_keeps_a_millisecond() -> None:
    quota = Quota(0.002, 0.005, phase_s=0.0, tick_s=0.0)
    assert quota.may_run(0.0)
    quota.use(0.0001, 0.0001)
    quota.sleep()
    assert quota.may_run(0.0051)  # the next period's 2 ms, and what it kept
    assert quota.checked_at(0.0051) == pytest.approx(0.0051 + 0.002 + KEPT_S)


def test_nothing_is_saved_up_in_a_long_sleep() -> None:
    quota = Quota(0.002, 0.005, phase_s=0.0, tick_s=0.0)
    assert quota.may_run(0.0)
    quota.sleep()
    assert quota.may_run(1000.0)
    assert quota.checked_at(1000.0) <= 1000.0 + 0.002 + KEPT_S + 1e-9


def test_the_next_period_is_later() -> None:
    quota = Quota(0.002, 0.005, phase_s=0.0013, tick_s=0.0)
    for now in (0.0, 0.0013, 0.0063, 0.1, 12345.6789):
        assert now < quota.next_period(now) <= now + 0.005 + 1e-9

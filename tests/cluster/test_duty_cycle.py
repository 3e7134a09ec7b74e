"""How long work beside the rounds rests."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

import pytest

from halo_edge.cluster.duty_cycle import QUOTA_S, DutyCycle
from halo_edge.cluster.limits import Limits

REST = 4.0  # of a fifth of the time


@dataclass
class Machine:
    """Its clocks go forward by hand; who rests on it does not wait."""

    quota: float | None = None
    now_s: float = 100.0
    cpu_s: float = 5.0
    asked: int = 0
    busy: float = 1.0
    others_s: float = 0.0
    rests_s: list[float] = field(default_factory=list)
    stopped: bool = False

    def monotonic(self) -> float:
        return self.now_s

    def thread_time(self) -> float:
        return self.cpu_s

    def process_time(self) -> float:
        return self.cpu_s + self.others_s

    def read_limits(self) -> Limits:
        self.asked += 1
        return Limits(self.quota, None, (0,), "this one")

    def wait(self, timeout_s: float) -> bool:
        self.rests_s.append(timeout_s)
        self.now_s += timeout_s
        self.others_s += timeout_s * self.busy * (self.quota or 1.0)
        return self.stopped

    def work(self, duty: DutyCycle, cpu_s: float, wall_s: float) -> float:
        """A piece of work; how long it was rested for."""
        self.now_s += wall_s
        self.cpu_s += cpu_s
        assert duty.rest() is self.stopped
        return self.rests_s[-1]


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    found = Machine()
    monkeypatch.setattr("halo_edge.cluster.duty_cycle.time", found)
    monkeypatch.setattr("halo_edge.cluster.duty_cycle.read_limits", found.read_limits)
    monkeypatch.setattr(threading.Event, "wait", lambda _, timeout_s: found.wait(timeout_s))
    return found


def test_a_piece_is_rested_for_longer_than_it_took(machine: Machine) -> None:
    duty, half = DutyCycle(share=0.2, free=0.0), DutyCycle(share=0.5, free=0.0)
    duty.begin()
    assert machine.work(duty, 0.01, 0.01) == pytest.approx(REST * 0.01)
    assert machine.work(duty, 0.01, 0.05) == pytest.approx(REST * 0.05)  # others computed
    half.begin()
    assert machine.work(half, 0.01, 0.01) == pytest.approx(0.01)


def test_of_a_quota_it_takes_the_same_share(machine: Machine) -> None:
    """Also in pieces that are over before the quota is."""
    machine.quota = 0.25
    duty = DutyCycle(share=0.2, free=0.0)
    duty.begin()
    assert machine.work(duty, 0.01, 0.01) == pytest.approx(REST * 0.04)
    assert machine.work(duty, 0.01, 0.06) == pytest.approx(REST * 0.06)


@pytest.mark.parametrize("quota", [None, 0.25])
def test_what_nobody_uses_may_be_taken(machine: Machine, quota: float | None) -> None:
    machine.quota = quota
    duty, gentle = DutyCycle(share=0.2, free=0.8), DutyCycle(share=0.2, free=0.0)
    duty.begin(), gentle.begin()
    took_s = 0.01 / (quota or 1.0)
    assert machine.work(duty, 0.01, took_s) == pytest.approx(4 * took_s)  # it is not known yet
    machine.busy = 0.0
    for _ in range(20):
        machine.work(duty, 0.01, took_s)
    assert machine.rests_s[-1] == pytest.approx(took_s / 4, rel=0.01)
    gentle.begin()
    for _ in range(20):
        assert machine.work(gentle, 0.01, took_s) == pytest.approx(4 * took_s)
    machine.busy = 1.0
    duty.begin()
    for _ in range(20):
        machine.work(duty, 0.01, took_s)
    assert machine.rests_s[-1] == pytest.approx(4 * took_s, rel=0.01)


def test_a_quota_is_asked_for_now_and_then(machine: Machine) -> None:
    duty = DutyCycle(share=0.2, free=0.0)
    duty.begin()
    machine.quota = 0.5
    for _ in range(10):
        assert machine.work(duty, 0.001, 0.001) == pytest.approx(REST * 0.001)
    assert machine.asked == 1
    machine.now_s += QUOTA_S
    duty.begin()
    assert machine.work(duty, 0.001, 0.001) == pytest.approx(REST * 0.002)


def test_what_waits_for_a_disk_goes_on(machine: Machine) -> None:
    duty = DutyCycle(share=0.2, free=0.0, max_rest_s=0.5)
    duty.begin()
    assert machine.work(duty, 0.0, 60.0) == 0.5
    machine.now_s += 60.0
    duty.begin()  # there was nothing to do
    assert machine.work(duty, 0.01, 0.01) == pytest.approx(REST * 0.01)


def test_it_says_that_it_was_stopped(machine: Machine) -> None:
    machine.stopped = True
    duty = DutyCycle(share=0.2, free=0.0)
    duty.begin()
    machine.work(duty, 0.01, 0.01)

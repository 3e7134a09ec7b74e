"""Cores and threads in virtual time."""

from __future__ import annotations

import pytest
import simpy

from halo_edge.lab.sim_cpu import SLICE_S, Cpu, SharedThread
from halo_edge.lab.sim_inbox import Inbox
from halo_edge.lab.sim_quota import Quota
from halo_edge.lab.sim_thread import OwnCore, Process, Thread

TICK_S = 0.004


class Watched:
    """Threads that do one piece of work each, and when it was done."""

    def __init__(self, env: simpy.Environment) -> None:
        self.env = env
        self.done: dict[str, float] = {}

    def start(self, name: str, thread: Thread, seconds: float, after_s: float = 0.0) -> None:
        self.env.process(self._work(name, thread, seconds, after_s))

    def _work(self, name: str, thread: Thread, seconds: float, after_s: float) -> Process:
        yield self.env.timeout(after_s)
        yield from thread.run(seconds)
        self.done[name] = self.env.now
        if isinstance(thread, SharedThread):
            thread.block()


def test_threads_take_turns_in_the_order_they_came() -> None:
    env = simpy.Environment()
    cpu, watched = Cpu(env, 1, TICK_S), Watched(env)
    for i in range(3):
        watched.start(f"t{i}", cpu.thread(), 0.001)
    env.run()
    assert watched.done == pytest.approx({"t0": 0.001, "t1": 0.002, "t2": 0.003})


def test_two_cores_run_two() -> None:
    env = simpy.Environment()
    cpu, watched = Cpu(env, 2), Watched(env)
    for i in range(4):
        watched.start(f"t{i}", cpu.thread(), 0.001)
    env.run()
    assert sorted(watched.done.values()) == pytest.approx([0.001, 0.001, 0.002, 0.002])


def test_a_pinned_thread_waits_for_its_core() -> None:
    env = simpy.Environment()
    cpu, watched = Cpu(env, 2), Watched(env)
    watched.start("a", cpu.thread(cores=(1,)), 0.001)
    watched.start("b", cpu.thread(cores=(1,)), 0.001)
    env.run()
    assert watched.done == pytest.approx({"a": 0.001, "b": 0.002})


def test_long_work_gives_way_at_a_tick() -> None:
    env = simpy.Environment()
    cpu, watched = Cpu(env, 1, TICK_S), Watched(env)
    watched.start("long", cpu.thread(), 0.020)
    watched.start("short", cpu.thread(), 0.001, after_s=0.0002)
    env.run()
    assert watched.done["short"] == pytest.approx(TICK_S + 0.001)
    assert watched.done["long"] == pytest.approx(0.021)


def test_one_that_wakes_preempts_who_has_had_a_slice() -> None:
    env = simpy.Environment()
    cpu, watched = Cpu(env, 1, TICK_S), Watched(env)
    watched.start("long", cpu.thread(), 0.020)
    watched.start("short", cpu.thread(), 0.001, after_s=SLICE_S + 0.0001)
    env.run()
    assert watched.done["short"] == pytest.approx(SLICE_S + 0.0011)
    assert watched.done["long"] == pytest.approx(0.021)


def test_precedence_takes_a_core_at_once() -> None:
    env = simpy.Environment()
    cpu, watched = Cpu(env, 1, TICK_S), Watched(env)
    watched.start("long", cpu.thread(), 0.002)
    watched.start("urgent", cpu.thread(precedence=True), 0.0005, after_s=0.001)
    env.run()
    assert watched.done == pytest.approx({"urgent": 0.0015, "long": 0.0025})


def test_a_quota_slows_down() -> None:
    env = simpy.Environment()
    cpu, watched = Cpu(env), Watched(env)
    thread = cpu.thread(Quota(0.002, 0.005, phase_s=0.0, tick_s=0.0))
    watched.start("slow", thread, 0.010)
    env.run()
    assert watched.done["slow"] == pytest.approx(4 * 0.005 + 0.002, abs=1e-5)
    assert thread.used_s == pytest.approx(0.010)


def test_throttled_it_leaves_its_core_to_others() -> None:
    env = simpy.Environment()
    cpu, watched = Cpu(env), Watched(env)
    for name in ("a", "b"):
        watched.start(name, cpu.thread(Quota(0.002, 0.005, phase_s=0.0, tick_s=0.0)), 0.003)
    env.run()
    assert sorted(watched.done.values()) == pytest.approx([0.006, 0.007], abs=1e-5)


def test_another_quota_in_the_middle_of_work() -> None:
    env = simpy.Environment()
    cpu, watched = Cpu(env), Watched(env)
    thread = cpu.thread(Quota(0.001, 0.010, phase_s=0.0, tick_s=0.0))
    watched.start("work", thread, 0.010)

    def free() -> Process:
        yield env.timeout(0.0205)
        thread.limit(None)

    env.process(free())
    env.run()
    assert watched.done["work"] == pytest.approx(0.0205 + 0.0075, abs=1e-5)


def test_work_is_never_lost_under_load() -> None:
    """Many threads with quotas and without on two cores: everybody's work is done, no faster than
    the cores can."""
    env = simpy.Environment()
    cpu, watched = Cpu(env, 2, TICK_S), Watched(env)
    threads = []
    for i in range(9):
        quota = Quota(0.001 + i * 2e-4, 0.005, phase_s=i * 1e-3, tick_s=TICK_S) if i % 3 else None
        threads.append(cpu.thread(quota, cores=((), (0,), (1,))[i % 3]))
        watched.start(f"t{i}", threads[-1], 0.003 * (i + 1), after_s=i * 7e-4)
    env.run()
    assert len(watched.done) == 9
    assert sum(thread.used_s for thread in threads) == pytest.approx(0.003 * 45)
    assert max(watched.done.values()) >= 0.003 * 45 / 2


@pytest.mark.parametrize("own", [True, False])
@pytest.mark.parametrize(("stops", "goes_on", "done"), [(0.004, 0.050, 0.056), (0.02, 0.05, 0.01)])
def test_a_stopped_thread_does_nothing(
    own: bool, stops: float, goes_on: float, done: float
) -> None:
    env = simpy.Environment()
    watched = Watched(env)
    thread: Thread = OwnCore(env) if own else Cpu(env).thread()
    watched.start("work", thread, 0.010)

    def signals() -> Process:
        yield env.timeout(stops)
        thread.stop()
        thread.stop()  # once more changes nothing
        yield env.timeout(goes_on - stops)
        thread.resume()
        thread.resume()

    env.process(signals())
    env.run()
    assert watched.done["work"] == pytest.approx(done)


def test_work_begun_while_stopped_waits() -> None:
    env = simpy.Environment()
    watched, thread = Watched(env), OwnCore(env)
    thread.stop()
    watched.start("work", thread, 0.010)

    def resume() -> Process:
        yield env.timeout(1.0)
        thread.resume()

    env.process(resume())
    env.run()
    assert watched.done["work"] == pytest.approx(1.010)


@pytest.mark.parametrize("own", [True, False])
def test_waiting_for_an_inbox(own: bool) -> None:
    """The waiting time does not contain the waking."""
    env = simpy.Environment()
    inbox, waited = Inbox(env), []
    thread: Thread = OwnCore(env) if own else Cpu(env).thread()

    def device() -> Process:
        waited.append((yield from thread.wait(inbox, None, 0.001)))
        assert env.now == pytest.approx(0.006)
        inbox.take()
        waited.append((yield from thread.wait(inbox, 0.010, 0.001)))
        assert env.now == pytest.approx(0.011)

    def sender() -> Process:
        yield env.timeout(0.005)
        inbox.put(b"x")

    env.process(device())
    env.process(sender())
    env.run()
    assert waited == pytest.approx([0.005, 0.004])

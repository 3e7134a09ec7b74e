"""The cores of a machine and the threads that run on them, in virtual time.

As Linux schedules, roughly (EEVDF, kernel 6.6 and later): threads take cores in the order in which
they became ready, and keep them until they block. One that has had its core for a slice gives way
when another wakes, or at the next timer tick. A thread of precedence (real-time) takes a core
at once. What threads share of caches and memory is not modelled.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from functools import partial
from typing import Any, Final, TypeAlias

import simpy

from halo_edge.lab.sim_inbox import Inbox
from halo_edge.lab.sim_quota import Quota, next_tick
from halo_edge.lab.sim_thread import Process

# base_slice_ns of a machine with two cores: 0.7 ms times 1 + log2 of their number.
SLICE_S: Final = 0.0014
_ROUNDING_S: Final = 1e-12


class SharedThread:
    """A thread of a `Cpu`, which makes it."""

    def __init__(
        self, cpu: Cpu, cores: tuple[int, ...], quota: Quota | None, precedence: bool
    ) -> None:
        self._cpu = cpu
        self.cores = cores
        self.quota = quota
        self.precedence = precedence
        self.used_s = 0.0
        self.stopped = False
        self.core: int | None = None
        self.done: simpy.Event | None = None  # for who waits for the work at hand
        self.left_s = 0.0  # of the work at hand
        self.since = 0.0  # it has its core without a break
        self.counted = 0.0  # up to when its running was counted
        self.timer = 0  # the number of its newest timer; older ones ring in vain

    def run(self, seconds: float) -> Process:
        yield self._cpu.run(self, seconds)

    def wait(
        self, inbox: Inbox, until: float | None, wake_s: float
    ) -> Generator[simpy.Event, Any, float]:
        self.block()
        waited_s = yield from self._cpu.waited(inbox.wait(until, 0.0))
        yield self._cpu.run(self, wake_s)
        return waited_s

    def block(self) -> None:
        """Give the core to others."""
        if self.quota is not None:
            self.quota.sleep()
        self._cpu.take_off(self)

    def stop(self) -> None:
        self.stopped = True
        self._cpu.take_off(self)

    def resume(self) -> None:
        self.stopped = False
        self._cpu.wake(self)

    def limit(self, quota: Quota | None) -> None:
        """Another quota, from now on."""
        self._cpu.take_off(self)
        self.quota = quota
        self._cpu.wake(self)


_Then: TypeAlias = Callable[[SharedThread], None]


class Cpu:
    """`tick_s`: between two ticks of the timer, at which the scheduler looks (0: it always does).
    `idle_wake_s`: what a core that had nothing to do needs to begin.
    """

    def __init__(
        self,
        env: simpy.Environment,
        cores: int = 1,
        tick_s: float = 0.0,
        idle_wake_s: float = 0.0,
    ) -> None:
        self._env = env
        self._tick_s = tick_s
        self._idle_wake_s = idle_wake_s
        self._idle_since = [0.0] * cores
        self._running: list[SharedThread | None] = [None] * cores
        self._queue: list[SharedThread] = []  # ready, without a core, in the order of their turns

    def thread(
        self, quota: Quota | None = None, cores: Iterable[int] = (), *, precedence: bool = False
    ) -> SharedThread:
        """One more. Without `cores` it may use all; without a quota it gets what there is."""
        return SharedThread(
            self, tuple(cores) or tuple(range(len(self._running))), quota, precedence
        )

    def run(self, thread: SharedThread, seconds: float) -> simpy.Event:
        assert thread.done is None, "a thread does one thing at a time"
        done = thread.done = self._env.event()
        thread.left_s = max(seconds, 0.0)
        thread.counted = self._env.now
        if thread.core is None:
            self.wake(thread)
        else:
            self._go_on(thread)
        return done

    def waited(self, event: simpy.Event) -> Generator[simpy.Event, Any, float]:
        """Wait for the event; for how long."""
        began = self._env.now
        yield event
        return self._env.now - began

    def wake(self, thread: SharedThread) -> None:
        """The thread has work to do, unless it is stopped: it wants a core."""
        if thread.done is None or thread.stopped:
            return
        self._queue.insert(0 if thread.precedence else len(self._queue), thread)
        self._fill_cores()
        if thread not in self._queue:
            return
        for core in thread.cores:
            running = self._running[core]
            if running is None or running.precedence:
                continue
            if thread.precedence or self._env.now - running.since >= SLICE_S:
                self._give_way(running)
                return
            self._go_on(running)  # its turn may end now

    def take_off(self, thread: SharedThread) -> None:
        """It needs, or may have, no core for now."""
        thread.timer += 1
        if thread in self._queue:
            self._queue.remove(thread)
        if thread.core is not None:
            self._free(thread)
            self._fill_cores()

    def _give_way(self, thread: SharedThread) -> None:
        """To the first in the queue that can use the core."""
        thread.timer += 1
        self._free(thread)
        self._fill_cores()
        if thread.done is not None:
            self._queue.append(thread)
            self._fill_cores()

    def _free(self, thread: SharedThread) -> None:
        core = thread.core
        assert core is not None
        self._count(thread)
        self._running[core] = thread.core = None
        self._idle_since[core] = self._env.now

    def _fill_cores(self) -> None:
        for thread in self._queue.copy():
            core = next((c for c in thread.cores if self._running[c] is None), None)
            if core is None:
                continue
            self._queue.remove(thread)
            now = self._env.now
            if thread.quota is not None and not thread.quota.may_run(now):
                self._ring(thread, thread.quota.next_period(now), self._unthrottle)
                continue
            self._running[core] = thread
            thread.core, thread.since, thread.counted = core, now, now
            if now > self._idle_since[core]:  # simply more to do
                thread.left_s += self._idle_wake_s
            self._go_on(thread)

    def _go_on(self, thread: SharedThread) -> None:
        """Let the thread run on, on its core, up to where something is to be decided."""
        if thread.done is None:  # about to ask for more, or to block
            return
        self._count(thread)
        now = self._env.now
        until = now + thread.left_s
        if thread.quota is not None:
            until = min(until, thread.quota.checked_at(now))
        if self._queue and self._wanted(thread):
            until = min(until, next_tick(max(now, thread.since + SLICE_S), self._tick_s))
        self._ring(thread, until, self._decide)

    def _decide(self, thread: SharedThread) -> None:
        self._count(thread)
        now = self._env.now
        if thread.left_s <= _ROUNDING_S:
            done, thread.done = thread.done, None
            assert done is not None
            done.succeed()  # it keeps its core until it blocks
        elif thread.quota is not None and not thread.quota.may_run(now):
            self.take_off(thread)
            self._ring(thread, thread.quota.next_period(now), self._unthrottle)
        elif now - thread.since >= SLICE_S - _ROUNDING_S and self._wanted(thread):
            self._give_way(thread)
        else:
            self._go_on(thread)

    def _unthrottle(self, thread: SharedThread) -> None:
        self.wake(thread)

    def _ring(self, thread: SharedThread, at: float, then: _Then) -> None:
        thread.timer += 1
        timer = self._env.timeout(max(at - self._env.now, 0.0))
        assert timer.callbacks is not None
        timer.callbacks.append(partial(self._rang, thread, thread.timer, then))

    def _rang(self, thread: SharedThread, timer: int, then: _Then, _: simpy.Event) -> None:
        if timer == thread.timer:
            then(thread)

    def _count(self, thread: SharedThread) -> None:
        """Count what the thread has run since the last time."""
        now = self._env.now
        ran_s = now - thread.counted
        thread.counted = now
        if ran_s > 0 and thread.done is not None:
            thread.left_s -= ran_s
            thread.used_s += ran_s
            if thread.quota is not None:
                thread.quota.use(ran_s, now)

    def _wanted(self, thread: SharedThread) -> bool:
        """Whether somebody waits for its core."""
        return any(thread.core in waiting.cores for waiting in self._queue)

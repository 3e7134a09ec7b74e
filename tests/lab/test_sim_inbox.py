"""Inboxes in virtual time."""

from __future__ import annotations

import simpy

from halo_edge.lab.sim_inbox import Inbox
from halo_edge.lab.sim_thread import Process


def test_it_keeps_order_and_holds_so_many() -> None:
    inbox = Inbox(simpy.Environment(), capacity=2)
    assert [inbox.put(bytes([i])) for i in range(3)] == [True, True, False]
    assert (len(inbox), inbox.overflowed) == (2, 1)
    assert [inbox.take(), inbox.take()] == [b"\0", b"\1"]


def test_waits_end_at_their_times_whatever_came_before() -> None:
    """Timers are shared between waits: later ones, earlier ones, and none."""
    env = simpy.Environment()
    inbox, woken = Inbox(env), []

    def device() -> Process:
        for until in (1.0, 5.0, 2.0, None, 3.0, 3.5):
            yield inbox.wait(until, 0.0)
            woken.append(env.now)
            while inbox:
                inbox.take()

    def sender() -> Process:
        yield env.timeout(1.2)
        inbox.put(b"x")  # ends the wait until 5
        yield env.timeout(1.3)
        inbox.put(b"x")  # ends the one without end

    env.process(device())
    env.process(sender())
    env.run()
    assert woken == [1.0, 1.2, 2.0, 2.5, 3.0, 3.5]


def test_a_deadline_that_has_passed_is_no_wait() -> None:
    env = simpy.Environment()
    inbox, woken = Inbox(env), []

    def device() -> Process:
        yield env.timeout(1.0)
        yield inbox.wait(0.5, 0.0)
        woken.append(env.now)

    env.process(device())
    env.run()
    assert woken == [1.0]

"""What goes on beside rounds, step by step."""

from __future__ import annotations

import threading
from collections.abc import Iterator

from halo_edge.cluster.readying import Readying
from halo_edge.errors import HaloError

DEADLINE_S = 20.0


def test_to_the_end() -> None:
    done = threading.Event()

    def steps() -> Iterator[None]:
        yield from (None for _ in range(5))
        done.set()

    readying = Readying(steps())
    assert done.wait(DEADLINE_S)
    readying.stop()


def test_no_further_than_until_it_is_stopped() -> None:
    begun, taken = threading.Event(), []

    def steps() -> Iterator[None]:
        while True:
            taken.append(None)
            begun.set()
            yield

    readying = Readying(steps())
    assert begun.wait(DEADLINE_S)
    readying.stop()
    before = len(taken)
    readying.stop()
    assert len(taken) == before


def test_an_error_is_left_to_who_stands_in() -> None:
    failed = threading.Event()

    def steps() -> Iterator[None]:
        yield
        failed.set()
        raise HaloError("the disk is full")

    readying = Readying(steps())
    assert failed.wait(DEADLINE_S)
    readying.stop()
    assert not readying._thread.is_alive()

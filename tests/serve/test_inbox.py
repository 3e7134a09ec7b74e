"""What event loops put in and the engine's thread takes out; here both are one thread, by turns."""

from __future__ import annotations

import asyncio
import math
from typing import Any

import pytest

from halo_edge.engine.sampling import SamplingParams
from halo_edge.errors import HaloError
from halo_edge.serve.inbox import Inbox
from halo_edge.serve.request import Busy, Request


def request(user: str = "") -> Request:
    return Request("r", [1, 2], SamplingParams(), user)


class Clock:
    """Shows what it is set to."""

    def __init__(self) -> None:
        self.now_s = 5.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def inbox(clock: Clock) -> Inbox:
    return Inbox(4, clock)


def run(main: Any) -> None:
    asyncio.run(main())


def test_what_is_put_in_is_taken_once(inbox: Inbox, clock: Clock) -> None:
    async def main() -> None:
        first = inbox.put(request(), 1.0)
        clock.now_s = 6.0
        second = inbox.put(request("b"), 1.0)
        first.cancel()
        assert inbox.wait()
        arrived, cancelled = inbox.take()
        assert [job.stream for job in arrived] == [first, second]
        assert [job.submitted_s for job in arrived] == [5.0, 6.0]
        assert arrived[0].mailbox is arrived[1].mailbox  # one for each event loop
        assert cancelled == [first]
        assert inbox.take() == ([], [])

    run(main)


def test_places_are_for_those_who_have_not_begun(inbox: Inbox) -> None:
    """One user may have half of them; whoever has begun makes room, and is not counted below 0."""

    async def main() -> None:
        for _ in range(2):
            inbox.put(request("a"), 1.0)
        with pytest.raises(Busy, match="2 requests are waiting, 2 of them yours") as busy:
            inbox.put(request("a"), 3.0)
        assert busy.value.retry_after_s == 3.0
        inbox.put(request("b"), 1.0)
        assert inbox.n_waiting == 3
        inbox.begun("a")
        inbox.put(request("a"), 1.0)
        for user in ("a", "a", "b"):
            inbox.begun(user)
        assert inbox.n_waiting == 0

    run(main)


def test_after_the_end(inbox: Inbox, clock: Clock) -> None:
    """What came before is still taken; nothing else comes."""

    async def main() -> None:
        inbox.put(request(), 1.0)
        inbox.close(8.0)
        inbox.close(math.inf)  # the first to be over counts
        with pytest.raises(HaloError, match="being stopped"):
            inbox.put(request(), 1.0)
        assert inbox.wait()
        assert len(inbox.take()[0]) == 1
        assert not inbox.wait()
        assert not inbox.overdue
        clock.now_s = 8.5
        assert inbox.overdue

    run(main)

"""The live feed: what is reckoned, how often, and for whom."""

from __future__ import annotations

import asyncio
import json
import threading
from dataclasses import dataclass, replace
from typing import Any, cast

import pytest

from halo_edge.cluster.overview import State
from halo_edge.engine.sampling import SamplingParams
from halo_edge.serve.closing import Closing
from halo_edge.serve.dashboard.feed import INTERVAL_S, MAX_LISTENERS, VIEW_S, Feed
from halo_edge.serve.dashboard.heat import Mark, Picture, Scale
from halo_edge.serve.dashboard.rates import Rates
from halo_edge.serve.request import Load, Request
from halo_edge.serve.view import ClusterView, DeviceView, SpentView

SECRET = "what somebody asked"
ASKED = Request(SECRET, [1, 2, 3], SamplingParams(), SECRET)
PI = DeviceView(
    1, "pi", "", State.IN_USE, 0.5, 4, 4, 1.0, None, 1, *[None] * 5, None, None, *[0] * 5
)
SEEN = ClusterView(
    "tiny", 3, 8, (PI,), "", None, None, SpentView(0, 0, 0, 0, 0.0), None, Load(), ()
)


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class StandInView:
    """`asked`: how often it was made."""

    def __init__(self) -> None:
        self.seen = SEEN
        self.asked = self.looked = 0
        self.heard = threading.Event()

    def now(self) -> ClusterView:
        self.asked += 1
        return self.seen

    def look(self) -> None:
        self.looked += 1

    def hear(self) -> None:
        self.heard.set()


class StandInHeat:
    def __init__(self) -> None:
        self.scale = Scale(8, 0.1, 1.0, "AAAA")
        self.wanted = self.noted = self.asked = 0

    def want(self) -> None:
        self.wanted += 1

    def note(self) -> None:
        self.noted += 1

    def picture(self) -> Picture:
        self.asked += 1
        return Picture("BBBB", (Mark(0, 1, 1, 0, 0),))


@dataclass
class Parts:
    feed: Feed
    view: StandInView
    heat: StandInHeat
    clock: Clock


@pytest.fixture
def parts() -> Parts:
    clock, view, heat = Clock(), StandInView(), StandInHeat()
    return Parts(Feed(cast(Any, view), Rates(clock), cast(Any, heat), clock), view, heat, clock)


def test_while_nobody_looks_nothing_is_reckoned(parts: Parts) -> None:
    for i in range(100):
        parts.feed.token(ASKED, 0.01, first=i == 0)
    assert parts.view.asked == parts.heat.wanted == parts.heat.asked == 0
    assert parts.view.looked == 100
    assert parts.heat.noted == 99  # of a prompt's rows there is no picture


def test_all_who_look_cause_one_frame_in_an_interval(parts: Parts) -> None:
    frames = {parts.feed.frame() for _ in range(50)}
    assert len(frames) == 1
    assert parts.view.asked == parts.heat.asked == 1
    parts.clock.now += INTERVAL_S
    parts.feed.frame()
    assert parts.view.asked == parts.heat.asked == 2


def test_frames_in_a_second_have_a_bound(parts: Parts) -> None:
    before = parts.heat.asked
    for _ in range(1000):
        parts.clock.now += 0.001
        parts.feed.frame()
    assert parts.heat.asked - before <= 6


def test_a_view_is_sent_when_a_state_changes_or_a_second_has_passed(parts: Parts) -> None:
    def view_of_next() -> Any:
        parts.clock.now += INTERVAL_S
        return json.loads(parts.feed.frame())["view"]

    assert view_of_next() is not None
    assert view_of_next() is None
    parts.view.seen = replace(SEEN, devices=(replace(PI, state=State.LEFT),))
    assert view_of_next()["devices"][0]["state"] == "left"
    assert view_of_next() is None
    parts.clock.now += VIEW_S
    assert view_of_next() is not None


def test_the_first_frame_has_everything_and_nothing_of_requests(parts: Parts) -> None:
    parts.feed.token(ASKED, 0.5, first=True)
    parts.feed.token(ASKED, 0.02, first=False)
    parts.clock.now += 2
    first = parts.feed.first()
    frame = json.loads(first)
    assert frame["scale"] == {"columns": 8, "least": 0.1, "most": 1.0, "usual": "AAAA"}
    assert frame["rates"][0] == {"second": 100, "tokens": 2, "median_ms": 20.0, "p99_ms": 20.0}
    assert frame["view"]["devices"][0]["name"] == "pi"
    assert SECRET.encode() not in first + parts.feed.frame()


def test_a_listener_gets_events_until_it_leaves_or_the_server_stops(parts: Parts) -> None:
    async def listens() -> None:
        closing = Closing()
        stream = parts.feed.listen(closing)
        first = await anext(stream)
        assert first.startswith(b"data: {")
        assert first.endswith(b"}\n\n")
        assert parts.feed.listeners == 1
        second = json.loads((await anext(stream)).removeprefix(b"data: "))
        assert second["heat"]["marks"][0]["device"] == 1
        assert await asyncio.to_thread(parts.view.heard.wait, 10)
        await stream.aclose()
        assert parts.feed.listeners == 0
        stream = parts.feed.listen(closing)
        await anext(stream)
        closing.begin()
        with pytest.raises(StopAsyncIteration):
            await anext(stream)
        assert parts.feed.listeners == 0

    asyncio.run(listens())


def test_there_is_room_for_so_many(parts: Parts) -> None:
    async def listen() -> None:
        streams = [parts.feed.listen(Closing()) for _ in range(MAX_LISTENERS)]
        for stream in streams:
            assert not parts.feed.full
            await anext(stream)
        assert parts.feed.full
        for stream in streams:
            await stream.aclose()
        assert not parts.feed.full

    asyncio.run(listen())

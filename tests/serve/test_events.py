"""The last events, and who is silent."""

from __future__ import annotations

from halo_edge.cluster.membership import Came, Left
from halo_edge.serve.events import KEPT, Events, Kind


def test_events_are_numbered_and_dated() -> None:
    times = iter([10.0, 11.0, 12.0])
    events = Events(lambda: next(times))
    events.noticed(Came("pi"))
    events.tell("a new plan: root 50 %, pi 50 %")
    events.noticed(Left("pi"))
    recent = events.recent()
    assert [event.number for event in recent] == [1, 2, 3]
    assert [event.at_s for event in recent] == [10.0, 11.0, 12.0]
    assert [event.kind for event in recent] == [Kind.JOINED, Kind.PLAN, Kind.LEFT]
    assert recent[1].text == "a new plan: root 50 %, pi 50 %"


def test_the_oldest_are_forgotten_and_long_ones_cut() -> None:
    events = Events()
    for i in range(KEPT + 7):
        events.tell(f"{i} " + "x" * 10_000)
    recent = events.recent()
    assert len(recent) == KEPT
    assert recent[0].number == 8
    assert max(len(event.text) for event in recent) == 500


def test_silence_is_told_of_once_and_who_left_is_not_back() -> None:
    events = Events()
    both = ["a", "b"]
    events.away([], both)
    events.away(["a", "b"], both)
    events.away(["a", "b"], both)
    events.away(["b"], both)
    events.away([], ["a"])  # b is no member any more
    told = [(event.kind, event.text.split()[0]) for event in events.recent()]
    assert told == [(Kind.AWAY, "a"), (Kind.AWAY, "b"), (Kind.BACK, "a")]

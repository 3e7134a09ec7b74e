"""A worker alone, its root played by hand. Two tokens are four chunks of 204 bytes.

The tests go through the table of docs/protocol.md: each message in each state.
"""

from __future__ import annotations

from typing import Any

import pytest
from tests.sync.forged import Hand, Said
from tests.sync.network import EPOCH, KEY, layout

from halo_edge.sync.datagram import Message, Want
from halo_edge.sync.ids import ROOT, DeviceId, RoundId
from halo_edge.sync.timing import Recovery
from halo_edge.sync.worker import WorkerRounds

DEVICE = DeviceId(5)
LAYOUT = layout(row_bytes=408, max_tokens=16, window=8)
ID = RoundId(1, 2)
PARTIAL = bytes(range(1, 205)) * 4
NOW = 50.0
EVERYTHING = Want(True, 0, 0b1111)


class Play:
    """A worker and the root's hand."""

    def __init__(self) -> None:
        self.worker = WorkerRounds(KEY, LAYOUT, DEVICE, epoch=EPOCH, recovery=Recovery())
        self.hand = Hand(ROOT, DEVICE)

    def x(self, *chunks: int, **fields: int) -> None:
        for chunk in chunks:
            payload = bytes([chunk]) * 204
            self.worker.receive(
                self.hand.say(Message.X, chunk=chunk, payload=payload, **fields), NOW
            )

    def want_partial(self, want: Want, stamp: int = 9, now: float = NOW, **fields: int) -> None:
        payload = want.encode(4)
        said = self.hand.say(Message.WANT_PARTIAL, stamp=stamp, payload=payload, **fields)
        self.worker.receive(said, now)

    def sends(self, now: float = NOW) -> list[Said]:
        return self.hand.hear_all(self.worker.datagrams(now))

    def answered(self) -> Play:
        self.x(0, 1, 2, 3)
        self.worker.answer(ID, PARTIAL, NOW)
        return self


def wants(said: list[Said]) -> list[Want | None]:
    assert all(each.message == Message.WANT_X for each in said)
    return [Want.decode(memoryview(each.payload), 4) for each in said]


def test_before_the_first_round_there_is_nothing_to_do() -> None:
    play = Play()
    assert play.worker.ready() is None and play.worker.deadline() is None and play.sends() == []


def test_a_round_is_ready_when_x_is_whole_and_until_it_is_answered() -> None:
    play = Play()
    play.x(0, 3, 1)
    assert play.worker.ready() is None
    play.x(2)
    for _ in range(2):
        ready = play.worker.ready()
        assert ready is not None
        assert (ready.id, ready.tokens) == (ID, 2)
        assert bytes(ready.x) == b"".join(bytes([chunk]) * 204 for chunk in range(4))
        assert play.worker.x_memory[:816] == ready.x
    play.worker.answer(ID, PARTIAL, NOW)
    assert play.worker.ready() is None


def test_the_answer_is_sent_once_in_order_and_unasked() -> None:
    play = Play().answered()
    said = play.sends()
    assert [(each.message, each.chunk, each.stamp) for each in said] == [
        (Message.PARTIAL, chunk, 0) for chunk in range(4)
    ]
    assert {each[1:5] for each in said} == {(0, 2, 1, 2)}
    assert b"".join(each.payload for each in said) == PARTIAL
    assert play.sends() == [] and play.worker.deadline() is None


def test_the_answer_is_kept_though_the_caller_changes_his() -> None:
    play = Play()
    play.x(0, 1, 2, 3)
    mine = bytearray(PARTIAL)
    play.worker.answer(ID, mine, NOW)
    mine[:] = bytes(len(mine))
    assert b"".join(each.payload for each in play.sends()) == PARTIAL


def test_receiving_a_gap_is_asked_for() -> None:
    play = Play()
    play.x(0, 2)
    assert wants(play.sends()) == [Want(False, 2, 0b1010)]


def test_receiving_a_probe_is_answered_with_what_is_missing() -> None:
    play = Play()
    play.x(0, 1)
    play.want_partial(EVERYTHING)
    assert wants(play.sends()) == [Want(True, 3, 0b1100)]
    play.want_partial(EVERYTHING)
    assert play.sends() == []  # the answer to the last may still come


def test_a_probe_of_an_unknown_round_begins_it() -> None:
    play = Play()
    play.want_partial(EVERYTHING)
    assert wants(play.sends()) == [Want(True, 1, 0b1111)]
    play.x(0, 1, 2, 3)
    assert play.worker.ready() is not None


def test_computing_everything_of_that_round_is_ignored() -> None:
    play = Play()
    play.x(0, 1, 2, 3)
    play.want_partial(EVERYTHING)
    play.x(1)
    assert play.sends() == [] and play.worker.deadline() is None
    play.worker.answer(ID, PARTIAL, NOW)
    assert len(play.sends()) == 4  # once, though it was asked for meanwhile


def test_answered_what_is_wanted_is_sent_again_with_the_stamp() -> None:
    play = Play().answered()
    play.sends()
    play.want_partial(Want(False, 4, 0b0101), stamp=77)
    assert [(each.chunk, each.stamp) for each in play.sends()] == [(0, 77), (2, 77)]
    play.x(0, 1, 2, 3)
    assert play.sends() == [] and play.worker.ready() is None


@pytest.mark.parametrize("state", ["receiving", "computing", "answered"])
def test_a_newer_round_ends_the_one_before_in_any_state(state: str) -> None:
    play = Play()
    play.x(0)
    if state != "receiving":
        play.x(1, 2, 3)
    if state == "answered":
        play.worker.answer(ID, PARTIAL, NOW)
    play.x(0, 1, 2, 3, layer=3)
    ready = play.worker.ready()
    assert ready is not None and ready.id == RoundId(1, 3)
    play.worker.answer(ID, PARTIAL, NOW)  # computed in vain
    assert play.sends() == []
    play.want_partial(EVERYTHING)
    play.x(1)
    assert play.worker.statistics.stale == 3
    assert play.worker.ready() == ready


def test_it_asks_a_limited_number_of_times_without_hearing_anything() -> None:
    play = Play()
    play.x(0)
    asked = 0
    while (deadline := play.worker.deadline()) is not None:
        assert wants(play.sends(deadline)) == [Want(True, 1, 0b1110)]
        asked += 1
    assert asked == Recovery().max_tries
    play.want_partial(EVERYTHING, now=NOW + 60)
    assert len(play.sends(NOW + 60)) == 1
    assert play.worker.deadline() is not None


@pytest.mark.parametrize("begun", [False, True])
@pytest.mark.parametrize(
    ("change", "counter"),
    [
        ({"step": 0}, "stale"),
        ({"layer": 1}, "stale"),
        ({"layer": 4}, "malformed"),  # of four, that is the fifth
        ({"layer": 0xFFFF}, "malformed"),
        ({"kind": 1, "step": 2}, "malformed"),
        ({"tokens": 0, "step": 2}, "malformed"),
        ({"tokens": 17, "step": 2}, "malformed"),
        ({"tokens": 0xFFFF, "step": 2}, "malformed"),
        ({"chunk": 4}, "malformed"),
        ({"chunk": 0xFFFF, "step": 2}, "malformed"),
        ({"payload": bytes(203)}, "malformed"),
        ({"payload": bytes(203), "step": 2}, "malformed"),
        ({"message": 0}, "malformed"),
        ({"message": Message.PARTIAL}, "malformed"),
        ({"message": Message.WANT_X, "step": 2}, "malformed"),
        ({"message": Message.WANT_PARTIAL, "step": 2}, "malformed"),
        ({"message": Message.WANT_PARTIAL, "payload": EVERYTHING.encode(9)}, "malformed"),
    ],
)
def test_what_makes_no_sense_is_counted_and_begins_no_round(
    change: dict[str, Any], counter: str, begun: bool
) -> None:
    play = Play()
    if begun:
        play.x(0)
    elif counter == "stale":
        play.x(0, 1, 2, 3)
    before = play.worker.ready(), play.worker.deadline(), play.worker.statistics.rounds
    said: dict[str, Any] = {"message": Message.X, "chunk": 1, "payload": bytes(204)}
    play.worker.receive(play.hand.say(**said | change), NOW)
    assert getattr(play.worker.statistics, counter) == 1
    after = play.worker.ready(), play.worker.deadline(), play.worker.statistics.rounds
    assert after == before
    assert play.sends() == []


def test_another_number_of_tokens_is_not_the_same_round() -> None:
    play = Play()
    play.x(0)
    play.x(1, tokens=3)
    assert play.worker.statistics.malformed == 1


def test_what_cannot_be_answered() -> None:
    play = Play()
    with pytest.raises(ValueError, match="does not wait"):
        play.worker.answer(ID, PARTIAL, NOW)
    play.x(0)
    with pytest.raises(ValueError, match="does not wait"):
        play.worker.answer(ID, PARTIAL, NOW)
    play.x(1, 2, 3)
    with pytest.raises(ValueError, match="bytes instead of"):
        play.worker.answer(ID, PARTIAL[:-1], NOW)
    play.worker.answer(ID, PARTIAL, NOW)
    with pytest.raises(ValueError, match="does not wait"):
        play.worker.answer(ID, PARTIAL, NOW)


@pytest.mark.parametrize("device", [0, -1, 65536])
def test_who_cannot_be_a_worker(device: int) -> None:
    with pytest.raises(ValueError, match="named 1 to 65535"):
        WorkerRounds(KEY, LAYOUT, DeviceId(device), epoch=EPOCH, recovery=Recovery())

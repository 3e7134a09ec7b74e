"""The root alone, its workers played by hand. Two tokens are four chunks of 204 bytes."""

from __future__ import annotations

from typing import Any

import pytest
from tests.sync.forged import Hand
from tests.sync.network import EPOCH, KEY, layout

from halo_edge.sync.datagram import Message, Want
from halo_edge.sync.errors import DeviceStalled
from halo_edge.sync.ids import ROOT, DeviceId, RoundId
from halo_edge.sync.root import RootRounds
from halo_edge.sync.timing import K_COPIES, Recovery

ONE, TWO = DeviceId(1), DeviceId(2)
LAYOUT = layout(row_bytes=408, max_tokens=16, window=8)
X = bytes(range(204)) * 4
NOW = 50.0


def root_of(*workers: DeviceId) -> RootRounds:
    return RootRounds(KEY, LAYOUT, workers, epoch=EPOCH, recovery=Recovery(), stall_timeout_s=5)


class Play:
    """A root in the middle of round (1, 2) with two workers, x just sent."""

    def __init__(self) -> None:
        self.root = root_of(ONE, TWO)
        self.hands = {device: Hand(device, ROOT) for device in (ONE, TWO)}
        self.root.begin(RoundId(1, 2), 2, X, NOW)
        self.sent = self.root.datagrams(NOW)

    def partials(self, device: DeviceId, *chunks: int, now: float = NOW + 0.01) -> None:
        for chunk in chunks:
            payload = bytes([device * 16 + chunk]) * 204
            said = self.hands[device].say(Message.PARTIAL, chunk=chunk, payload=payload)
            self.root.receive(said, now)

    def want_x(self, device: DeviceId, want: Want, now: float, stamp: int = 9) -> None:
        payload = want.encode(4)
        self.root.receive(self.hands[device].say(Message.WANT_X, stamp=stamp, payload=payload), now)


def test_before_the_first_round_there_is_nothing_to_do() -> None:
    root = root_of(ONE)
    assert root.complete and root.deadline() is None and root.datagrams(NOW) == []


def test_x_is_sealed_once_for_everybody() -> None:
    play = Play()
    assert [destinations for destinations, _ in play.sent] == [(ONE, TWO)] * 4
    for hand in play.hands.values():
        said = [hand.hear(datagram) for _, datagram in play.sent]
        assert b"".join(each.payload for each in said) == X
        assert [each.chunk for each in said] == [0, 1, 2, 3]
        assert {each[:5] for each in said} == {(Message.X, 0, 2, 1, 2)}
    assert play.root.datagrams(NOW) == []


def test_the_round_is_complete_when_every_chunk_of_everybody_is_there() -> None:
    play = Play()
    play.partials(ONE, 0, 1, 2, 3)
    play.partials(TWO, 3, 1, 0)
    assert not play.root.complete
    play.partials(TWO, 2)
    assert play.root.complete
    assert play.root.deadline() is None
    for device in (ONE, TWO):
        expected = b"".join(bytes([device * 16 + chunk]) * 204 for chunk in range(4))
        assert bytes(play.root.partial(device)) == expected
        assert bytes(play.root.partial_memory(device)[: len(expected)]) == expected
    assert play.root.partial(ONE).readonly


def test_x_is_kept_though_the_caller_changes_his() -> None:
    root, hand = root_of(ONE), Hand(ONE, ROOT)
    mine = bytearray(X)
    root.begin(RoundId(1, 2), 2, mine, NOW)
    mine[:] = bytes(len(mine))
    assert b"".join(hand.hear(datagram).payload for _, datagram in root.datagrams(NOW)) == X


def test_a_round_without_workers_is_complete() -> None:
    root = root_of()
    root.begin(RoundId(0, 0), 2, X, NOW)
    assert root.complete and root.datagrams(NOW) == [] and root.deadline() is None


def test_a_chunk_that_comes_twice_counts_once_and_changes_nothing() -> None:
    play = Play()
    play.partials(ONE, 0, 1, 2)
    play.partials(TWO, 0, 1, 2, 3)
    again = play.hands[ONE].say(Message.PARTIAL, chunk=1, payload=bytes(204))
    play.root.receive(again, NOW)
    assert not play.root.complete
    assert play.root.statistics.duplicates == 1
    assert bytes(play.root.partial(ONE)[204:408]) == b"\x11" * 204


def test_only_the_asking_worker_is_sent_the_lost_chunk_again() -> None:
    play = Play()
    play.want_x(TWO, Want(False, 4, 0b0010), NOW + 0.01, stamp=77)
    sent = play.root.datagrams(NOW + 0.01)
    assert {destinations for destinations, _ in sent} == {(TWO,)}
    (said,) = play.hands[TWO].hear_all(datagram for _, datagram in sent)
    assert (said.message, said.chunk, said.stamp) == (Message.X, 1, 77)
    assert play.root.statistics.chunks_resent == 1


def test_a_worker_that_answers_has_all_of_x() -> None:
    """A WANT_X that it overtook must not bring x again."""
    play = Play()
    play.partials(ONE, 0)
    play.want_x(ONE, Want(True, 4, 0b1111), NOW + 0.01)
    assert play.root.datagrams(NOW + 0.01) == []


def test_a_gap_in_a_partial_is_asked_for() -> None:
    play = Play()
    play.partials(ONE, 0, 2)
    sent = play.root.datagrams(NOW + 0.01)
    assert {destinations for destinations, _ in sent} == {(ONE,)}
    (said,) = play.hands[ONE].hear_all(datagram for _, datagram in sent)
    assert said.message == Message.WANT_PARTIAL and said.stamp != 0
    assert Want.decode(memoryview(said.payload), 4) == Want(False, 2, 0b1010)


def test_what_came_because_it_was_asked_for_is_counted_by_place() -> None:
    play = Play()
    play.partials(ONE, 0, 2)
    play.root.datagrams(NOW + 0.01)
    for chunk in (1, 3):
        answer = play.hands[ONE].say(Message.PARTIAL, chunk=chunk, stamp=7, payload=bytes(204))
        play.root.receive(answer, NOW + 0.02)
    play.partials(TWO, 0, 1, 2, 3)
    assert play.root.recovered == {(ONE, 2): 2}
    assert play.root.statistics.chunks_recovered == 2
    following = root_of(ONE, TWO)
    following.follow(play.root)
    assert following.recovered == {(ONE, 2): 2}


def test_an_answer_that_does_not_come_is_asked_for_with_growing_patience() -> None:
    play = Play()
    recovery = Recovery()
    first_s = recovery.initial_answer_s + 4 * recovery.initial_answer_per_token_s
    now = NOW
    for wait_s in (first_s, first_s, 0.1, 0.1):
        deadline = play.root.deadline()
        assert deadline is not None and deadline == pytest.approx(now + wait_s)
        now = deadline
        probes = play.root.datagrams(now)
        assert [d for d, _ in probes] == [(ONE,), (TWO,)] * K_COPIES
        said = play.hands[ONE].hear(probes[0][1])
        assert Want.decode(memoryview(said.payload), 4) == Want(True, 0, 0b1111)


def test_a_worker_that_asks_for_x_is_given_time_again() -> None:
    play = Play()
    play.partials(ONE, 0, 1, 2, 3)
    before = play.root.deadline()
    play.want_x(TWO, Want(False, 4, 0b0000), NOW + 0.03)
    after = play.root.deadline()
    assert before is not None and after == pytest.approx(before + 0.03)


def test_the_time_an_answer_takes_is_learned_for_each_number_of_tokens() -> None:
    root, hand = root_of(ONE), Hand(ONE, ROOT)
    for step in range(1, 60):
        now = NOW + step
        root.begin(RoundId(step, 2), 2, X, now)
        root.datagrams(now)
        waits = root.deadline()
        for chunk in range(4):
            said = hand.say(Message.PARTIAL, step=step, chunk=chunk, payload=bytes(204))
            root.receive(said, now + 0.02)
    assert waits == pytest.approx(now + 0.02 + Recovery().min_variation_s, abs=1e-5)
    root.begin(RoundId(step + 1, 2), 8, X * 4, now + 1)
    root.datagrams(now + 1)
    waits = root.deadline()
    assert waits is not None and waits > now + 1 + Recovery().initial_answer_s


def test_an_answer_to_an_x_sent_again_teaches_nothing() -> None:
    root, hand = root_of(ONE), Hand(ONE, ROOT)
    for step in range(1, 60):
        now = NOW + step
        root.begin(RoundId(step, 2), 2, X, now)
        root.datagrams(now)
        waits = root.deadline()
        took_s = 0.02
        if step % 2:
            lost = Want(False, 0xFFFF, 0b0001)
            root.receive(hand.say(Message.WANT_X, step=step, payload=lost.encode(4)), now + 0.3)
            root.datagrams(now + 0.3)
            took_s = 0.9
        for chunk in range(4):
            said = hand.say(Message.PARTIAL, step=step, chunk=chunk, payload=bytes(204))
            root.receive(said, now + took_s)
    assert waits == pytest.approx(now + 0.02, abs=1e-3)


def test_a_device_stalls_only_if_it_owes_something() -> None:
    play = Play()
    play.partials(ONE, 0, 1, 2, 3)
    play.partials(TWO, 0, now=NOW + 1)
    play.root.datagrams(NOW + 5.9)
    with pytest.raises(DeviceStalled) as raised:
        play.root.datagrams(NOW + 6)
    assert raised.value.device == TWO
    assert raised.value.silent_s == 5


@pytest.mark.parametrize(
    ("change", "counter"),
    [
        ({"step": 0}, "stale"),
        ({"layer": 1}, "stale"),
        ({"step": 0, "tokens": 999}, "stale"),
        ({"step": 2}, "malformed"),  # the root has not begun it
        ({"layer": 3}, "malformed"),
        ({"kind": 1}, "malformed"),
        ({"tokens": 1}, "malformed"),
        ({"tokens": 0}, "malformed"),
        ({"tokens": 0xFFFF}, "malformed"),
        ({"chunk": 4}, "malformed"),
        ({"chunk": 0xFFFF}, "malformed"),
        ({"payload": bytes(203)}, "malformed"),
        ({"payload": b""}, "malformed"),
        ({"message": 0}, "malformed"),
        ({"message": Message.X}, "malformed"),
        ({"message": Message.WANT_PARTIAL}, "malformed"),
        ({"message": Message.WANT_X}, "malformed"),  # 204 bytes are not a WANT
        ({"message": Message.WANT_X, "payload": Want(True, 1, 15).encode(9)}, "malformed"),
        ({"message": 255}, "malformed"),
    ],
)
def test_what_makes_no_sense_is_counted_and_ignored(change: dict[str, Any], counter: str) -> None:
    play = Play()
    play.partials(ONE, 0)
    before = bytes(play.root.partial(ONE)), play.root.deadline()
    said: dict[str, Any] = {"message": Message.PARTIAL, "chunk": 1, "payload": bytes(204)}
    play.root.receive(play.hands[ONE].say(**said | change), NOW)
    assert getattr(play.root.statistics, counter) == 1
    assert (bytes(play.root.partial(ONE)), play.root.deadline()) == before
    assert play.root.datagrams(NOW) == []


@pytest.mark.parametrize(
    ("round_id", "tokens", "x"),
    [
        (RoundId(1, 2), 2, X),  # again
        (RoundId(1, 1), 2, X),
        (RoundId(0, 3), 2, X),
        (RoundId(2, 0), 1, X),
        (RoundId(2, 0), 2, X[:-1]),
        (RoundId(2, 0), 0, b""),
        (RoundId(2, 0), 17, X[:408] * 17),
        (RoundId(2, 4), 2, X),
        (RoundId(1 << 32, 0), 2, X),
    ],
)
def test_what_cannot_be_begun(round_id: RoundId, tokens: int, x: bytes) -> None:
    play = Play()
    with pytest.raises(ValueError):
        play.root.begin(round_id, tokens, x, NOW)
    play.partials(ONE, 0, 1, 2, 3)
    play.partials(TWO, 0, 1, 2, 3)
    assert play.root.complete


@pytest.mark.parametrize("workers", [[ROOT], [ONE, ONE], [DeviceId(65536)], [DeviceId(-1)]])
def test_who_cannot_be_a_worker(workers: list[DeviceId]) -> None:
    with pytest.raises(ValueError, match="workers"):
        root_of(*workers)


def test_an_unfinished_round_may_be_left_for_the_next() -> None:
    play = Play()
    play.partials(ONE, 0, 1)
    play.root.begin(RoundId(1, 3), 2, X, NOW)
    play.partials(ONE, 2)
    assert play.root.statistics.stale == 1
    assert len(play.root.datagrams(NOW)) == 4

"""Going on without a worker's chunks: what the root says is overdue, and what may take its place.

Two tokens are four chunks of 204 bytes.
"""

from __future__ import annotations

from statistics import fmean

import pytest
from tests.sync.forged import Hand
from tests.sync.network import EPOCH, KEY, Cluster, Link, layout

from halo_edge.sync.datagram import Message, Want
from halo_edge.sync.ids import ROOT, DeviceId, RoundId
from halo_edge.sync.root import Overdue, RootRounds
from halo_edge.sync.timing import Recovery

ONE, TWO = DeviceId(1), DeviceId(2)
LAYOUT = layout(row_bytes=408, max_tokens=16, window=8)
X = bytes(range(204)) * 4
NOW = 50.0
ANSWER_S = 0.02
FILL = b"\xee" * 204


class Play:
    """Two workers played by hand that have answered 60 rounds in 20 ms each; x of the next is sent.

    Rounds begin every second.
    """

    def __init__(self) -> None:
        self.root = RootRounds(
            KEY, LAYOUT, [ONE, TWO], epoch=EPOCH, recovery=Recovery(), stall_timeout_s=100
        )
        self.hands = {device: Hand(device, ROOT) for device in (ONE, TWO)}
        self.step = 0
        self.now = NOW
        for _ in range(60):
            self.begin()
            self.now += ANSWER_S
            for device in (ONE, TWO):
                self.partials(device, 0, 1, 2, 3)
            assert self.root.complete
        self.begin()

    def begin(self) -> None:
        self.step += 1
        self.now = NOW + self.step
        self.root.begin(RoundId(self.step, 2), 2, X, self.now)
        self.root.datagrams(self.now)

    def partials(self, device: DeviceId, *chunks: int, stamp: int = 0) -> None:
        for chunk in chunks:
            payload = bytes([device * 16 + chunk]) * 204
            said = self.hands[device].say(
                Message.PARTIAL, step=self.step, chunk=chunk, payload=payload, stamp=stamp
            )
            self.root.receive(said, self.now)

    def want_x(self, device: DeviceId, want: Want) -> None:
        said = self.hands[device].say(
            Message.WANT_X, step=self.step, stamp=9, payload=want.encode(4)
        )
        self.root.receive(said, self.now)

    def overdue(self, device: DeviceId) -> Overdue | None:
        return next((o for o in self.root.overdue(self.now) if o.device == device), None)


class TestOverdue:
    def test_nothing_is_before_its_time(self) -> None:
        play = Play()
        play.now += ANSWER_S * 0.9
        assert play.root.overdue(play.now) == []
        play.partials(ONE, 0)
        assert play.root.overdue(play.now) == []

    def test_a_chunk_that_a_later_one_has_overtaken_is_at_once(self) -> None:
        play = Play()
        play.now += ANSWER_S
        play.partials(ONE, 0, 2)
        overdue = play.overdue(ONE)
        assert overdue is not None and overdue.missing == 0b0010
        assert 0 < overdue.expected_s <= 1.1 * ANSWER_S

    def test_an_answer_is_when_its_timeout_has_passed(self) -> None:
        play = Play()
        deadline = play.root.deadline()
        assert deadline == pytest.approx(play.now + ANSWER_S, abs=0.001)
        play.now = deadline
        assert [o.missing for o in play.root.overdue(play.now)] == [0b1111] * 2

    def test_the_rest_is_when_the_gap_has_passed(self) -> None:
        play = Play()
        play.now += ANSWER_S
        play.partials(TWO, 0, 1, 2, 3)
        play.partials(ONE, 0, 1)
        deadline = play.root.deadline()
        assert deadline is not None and deadline < play.now + 0.011
        play.now = deadline
        overdue = play.overdue(ONE)
        assert overdue is not None and overdue.missing == 0b1100

    def test_an_answer_is_when_x_is_known_to_be_lost(self) -> None:
        play = Play()
        play.now += 0.001
        play.want_x(ONE, Want(False, 1 << 20, 0b0001))
        overdue = play.overdue(ONE)
        assert overdue is not None and overdue.missing == 0b1111
        assert overdue.expected_s >= ANSWER_S
        play.root.datagrams(play.now)
        play.now += 0.002
        assert play.overdue(ONE) is not None, "it has not answered yet"
        play.partials(ONE, 0)
        assert play.overdue(ONE) is None

    def test_an_answer_is_not_when_the_worker_only_acknowledges_x(self) -> None:
        play = Play()
        play.now += 0.001
        play.want_x(ONE, Want(False, 0, 0))
        assert play.overdue(ONE) is None

    def test_what_has_been_asked_for_is_until_it_comes(self) -> None:
        play = Play()
        play.now += ANSWER_S
        play.partials(ONE, 0, 2, 3)
        play.root.datagrams(play.now)
        play.now += 0.001
        overdue = play.overdue(ONE)
        assert overdue is not None and overdue.missing == 0b0010
        play.partials(ONE, 1, stamp=7)
        assert play.overdue(ONE) is None

    def test_what_comes_soon_is_expected_sooner_and_sooner(self) -> None:
        play = Play()
        play.now += ANSWER_S
        play.partials(ONE, 0, 2, 3)
        play.root.datagrams(play.now)
        expected = []
        for _ in range(5):
            play.now += ANSWER_S / 10
            overdue = play.overdue(ONE)
            assert overdue is not None
            expected.append(overdue.expected_s)
        assert expected == sorted(expected, reverse=True)

    def test_silence_is_expected_to_go_on_for_as_long_as_it_has_lasted(self) -> None:
        play = Play()
        began = play.now
        for silent_s in (0.1, 0.5, 2.0):
            play.now = began + silent_s
            overdue = play.overdue(TWO)
            assert overdue is not None
            assert overdue.expected_s == pytest.approx(silent_s, rel=0.3)
            play.root.datagrams(play.now)

    def test_a_round_that_is_complete_owes_nothing(self) -> None:
        play = Play()
        for device in (ONE, TWO):
            play.partials(device, 0, 1, 2, 3)
        play.now += 1
        assert play.root.overdue(play.now) == []


class TestSupply:
    def test_it_completes_the_round(self) -> None:
        play = Play()
        play.partials(ONE, 0, 1, 2, 3)
        play.partials(TWO, 1, 3)
        assert play.root.missing(TWO) == 0b0101
        for chunk in (0, 2):
            assert not play.root.complete
            play.root.supply(TWO, chunk, FILL)
        assert play.root.complete and play.root.missing(TWO) == 0
        assert bytes(play.root.partial(TWO)) == FILL + b"\x21" * 204 + FILL + b"\x23" * 204
        assert play.root.statistics.chunks_supplied == 2
        assert play.root.deadline() is None and play.root.overdue(play.now) == []

    def test_the_spans_are_where_chunks_lie(self) -> None:
        assert Play().root.partial_spans == [(0, 204), (204, 408), (408, 612), (612, 816)]

    def test_what_comes_later_changes_nothing(self) -> None:
        play = Play()
        play.root.supply(ONE, 1, FILL)
        play.partials(ONE, 0, 1, 2, 3)
        assert bytes(play.root.partial(ONE)[204:408]) == FILL
        assert play.root.statistics.duplicates == 1
        assert not play.root.complete
        assert play.root.missing(ONE) == 0

    def test_what_is_there_is_not_replaced(self) -> None:
        play = Play()
        play.partials(ONE, 1)
        play.root.supply(ONE, 1, FILL)
        play.root.supply(ONE, 2, FILL)
        play.root.supply(ONE, 2, bytes(204))
        assert bytes(play.root.partial(ONE)[204:612]) == b"\x11" * 204 + FILL
        assert play.root.statistics.chunks_supplied == 1

    @pytest.mark.parametrize(("chunk", "nbytes"), [(4, 204), (-1, 204), (0, 203), (0, 0)])
    def test_what_does_not_fit_is_an_error(self, chunk: int, nbytes: int) -> None:
        with pytest.raises(ValueError, match="does not fit"):
            Play().root.supply(ONE, chunk, bytes(nbytes))

    def test_what_was_supplied_is_not_asked_for(self) -> None:
        play = Play()
        play.now += ANSWER_S
        play.partials(ONE, 0, 3)
        play.partials(TWO, 0, 1, 2, 3)
        play.root.supply(ONE, 1, FILL)
        ((_, datagram), _) = play.root.datagrams(play.now)
        said = play.hands[ONE].hear(datagram)
        want = Want.decode(memoryview(said.payload), 4)
        assert want is not None and want.missing == 0b0100

    def test_a_gap_that_was_supplied_is_none(self) -> None:
        play = Play()
        play.now += ANSWER_S
        play.root.supply(ONE, 0, FILL)
        play.partials(ONE, 1)
        assert play.root.overdue(play.now) == []
        assert play.root.datagrams(play.now) == []

    def test_x_is_not_sent_again_to_whom_nothing_is_awaited_of(self) -> None:
        play = Play()
        play.want_x(ONE, Want(False, 1 << 20, 0b0001))
        for chunk in range(4):
            play.root.supply(ONE, chunk, FILL)
        assert play.root.datagrams(play.now) == []

    def test_it_tells_nothing_of_how_long_answers_take(self) -> None:
        play = Play()
        before = play.root.link(ONE).answer_s
        for _ in range(30):
            for chunk in range(4):
                play.root.supply(ONE, chunk, FILL)
            play.begin()
        assert play.root.link(ONE).answer_s == before

    def test_an_answer_that_comes_after_all_does(self) -> None:
        play = Play()
        before = play.root.link(ONE).answer_s
        for chunk in range(4):
            play.root.supply(ONE, chunk, FILL)
        play.now += 2 * ANSWER_S
        play.partials(ONE, 0, 1, 2, 3)
        after = play.root.link(ONE).answer_s
        assert before is not None and after == pytest.approx(before + ANSWER_S / 8)

    def test_an_answer_that_comes_when_its_round_is_over_does_too(self) -> None:
        """Else a device that has become slower would be late for ever."""
        play = Play()
        before = play.root.link(ONE).answer_s
        for chunk in range(4):
            play.root.supply(ONE, chunk, FILL)
        sent_at, step = play.now, play.step
        play.begin()
        said = play.hands[ONE].say(Message.PARTIAL, step=step, chunk=0, payload=FILL)
        play.root.receive(said, sent_at + 2 * ANSWER_S)
        after = play.root.link(ONE).answer_s
        assert before is not None and after == pytest.approx(before + ANSWER_S / 8)


class TestLate:
    """Chunks that came after others had been put in their place."""

    def partial(self, play: Play, step: int, chunk: int, stamp: int = 0) -> None:
        said = play.hands[ONE].say(
            Message.PARTIAL, step=step, chunk=chunk, payload=FILL, stamp=stamp
        )
        play.root.receive(said, play.now)

    def test_in_their_round(self) -> None:
        play = Play()
        play.root.supply(ONE, 1, FILL)
        play.partials(ONE, 0, 1, 1, 2, 3)
        assert play.root.late == {ONE: 1}
        assert play.root.statistics.duplicates == 2

    def test_when_it_is_over(self) -> None:
        play = Play()
        play.partials(TWO, 0, 1, 2, 3)
        play.partials(ONE, 0, 1)
        play.root.supply(ONE, 2, FILL)
        play.root.supply(ONE, 3, FILL)
        step = play.step
        play.begin()
        assert not play.root.late
        for chunk in (0, 1, 2, 2, 4, 0xFFFF):  # copies, and what does not exist, are not late
            self.partial(play, step, chunk)
        assert play.root.late == {ONE: 1}
        self.partial(play, step, 3, stamp=9)  # asked for
        self.partial(play, step, 3)
        assert play.root.late == {ONE: 2}
        assert play.root.statistics.stale == 8

    def test_copies_of_what_had_come_are_not(self) -> None:
        play = Play()
        for device in (ONE, TWO):
            play.partials(device, 0, 1, 2, 3)
        step = play.step
        play.begin()
        self.partial(play, step, 3)
        assert not play.root.late

    def test_only_the_last_rounds_are_remembered(self) -> None:
        play = Play()
        first = play.step
        for _ in range(40):
            play.begin()
        for step in range(first, play.step):
            self.partial(play, step, 0)
        assert play.root.late == {ONE: 16}

    def test_of_epochs_before_too(self) -> None:
        late = Play().root.late
        late[ONE] += 3
        root = RootRounds(
            KEY, LAYOUT, [ONE], epoch=EPOCH, recovery=Recovery(), stall_timeout_s=1, late=late
        )
        assert root.late == {ONE: 3}


PIECES = layout(row_bytes=408, max_payload=300, window=64)


@pytest.mark.parametrize(
    ("compute_s", "recovery"),
    [
        (0.003, Recovery()),
        (0.02, Recovery(away_after_s=0.05)),  # longer than rounds without it, which end its own
    ],
)
def test_devices_that_become_slower_are_waited_for_again(
    compute_s: float, recovery: Recovery
) -> None:
    """Although every round goes on without what is late."""
    cluster = Cluster(PIECES, 3, recovery=recovery, owner=lambda cluster: cluster.go_on())
    for n in range(100):
        cluster.run(RoundId(n, 0), 1)
    cluster.compute_s = compute_s
    for n in range(100, 400):
        cluster.run(RoundId(n, 0), 1)
        cluster.settle(cluster.now + 0.001)
    supplied = cluster.root.statistics.chunks_supplied
    assert supplied > 0
    for n in range(400, 450):
        cluster.run(RoundId(n, 0), 1)
        cluster.settle(cluster.now + 0.001)
    assert cluster.root.statistics.chunks_supplied == supplied


@pytest.mark.parametrize("loss", [0.0, 0.05, 0.2, 0.5])
def test_going_on_at_once_bounds_every_round(loss: float) -> None:
    cluster = Cluster(PIECES, 3, seed=3, owner=lambda cluster: cluster.go_on())
    for n in range(60):
        cluster.run(RoundId(n, 0), 1)
    cluster.link = Link(loss=loss)
    took = [cluster.run(RoundId(n, 0), 1) for n in range(60, 360)]
    assert max(took) < 0.004
    assert fmean(took) < 0.0031
    assert (cluster.root.statistics.chunks_supplied > 0) == (loss > 0)

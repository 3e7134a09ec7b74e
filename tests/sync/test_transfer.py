from __future__ import annotations

import math

import pytest

from halo_edge.sync.chunks import ChunkGrid
from halo_edge.sync.datagram import Want, stamp_of
from halo_edge.sync.timing import Recovery
from halo_edge.sync.transfer import Incoming, Outgoing, chunks_of

RECOVERY = Recovery(
    min_timeout_s=0.001, initial_gap_s=0.010, initial_round_trip_s=0.050, max_backoff_s=1.0
)
NOW = 1000.0


def test_chunks_of_a_bitmap() -> None:
    assert chunks_of(0) == []
    assert chunks_of(0b1001_0010) == [1, 4, 7]


class TestOutgoing:
    def sending(self, n_chunks: int, window: int) -> Outgoing:
        """The first window is sent; the counters are 100, 101, ..."""
        outgoing = Outgoing(window)
        outgoing.start(n_chunks)
        for chunk in outgoing.fresh():
            outgoing.sent(chunk, 100 + chunk)
        return outgoing

    def test_a_small_matrix_is_sent_at_once(self) -> None:
        outgoing = Outgoing(4)
        outgoing.start(3)
        assert list(outgoing.fresh()) == [0, 1, 2]
        assert list(outgoing.fresh()) == []
        assert outgoing.lost() == []

    def test_no_more_than_the_window_is_under_way(self) -> None:
        outgoing = self.sending(10, window=4)
        assert list(outgoing.fresh()) == []
        outgoing.wanted(Want(False, 101, 0b11_1111_1100), 1)
        assert list(outgoing.fresh()) == [4, 5]

    def test_overtaken_chunks_are_lost_and_others_are_not(self) -> None:
        outgoing = self.sending(6, window=6)
        outgoing.wanted(Want(False, 103, 0b11_0110), 77)  # 3 has come; 1 and 2 have not
        assert outgoing.lost() == [1, 2]
        assert outgoing.stamp == 77
        assert outgoing.lost() == []

    def test_a_copy_is_lost_only_when_it_is_overtaken_itself(self) -> None:
        outgoing = self.sending(4, window=4)
        outgoing.wanted(Want(False, 103, 0b0010), 1)
        assert outgoing.lost() == [1]
        outgoing.sent(1, 104)
        outgoing.wanted(Want(False, 103, 0b0010), 2)
        assert outgoing.lost() == []
        outgoing.wanted(Want(False, 104, 0b0010), 3)
        assert outgoing.lost() == [1]

    def test_late_means_all_that_was_sent(self) -> None:
        outgoing = self.sending(8, window=4)
        outgoing.wanted(Want(True, 0, 0b1111_1110), 1)
        assert outgoing.lost() == [1, 2, 3]
        assert list(outgoing.fresh()) == [4]

    def test_an_old_want_takes_back_nothing(self) -> None:
        outgoing = self.sending(4, window=4)
        outgoing.wanted(Want(False, 103, 0), 2)
        outgoing.wanted(Want(True, 100, 0b1110), 1)
        assert outgoing.lost() == []

    def test_what_arrived_after_all_is_not_sent_again(self) -> None:
        outgoing = self.sending(4, window=4)
        outgoing.wanted(Want(False, 103, 0b0110), 1)
        outgoing.wanted(Want(False, 103, 0b0100), 2)
        assert outgoing.lost() == [2]

    def test_closed_it_sends_nothing_more(self) -> None:
        outgoing = self.sending(8, window=4)
        outgoing.close()
        outgoing.wanted(Want(True, 0, 0xFF), 1)
        assert outgoing.lost() == [] and list(outgoing.fresh()) == []


class TestIncoming:
    """Chunks of two bytes; one token is one chunk."""

    def receiving(self, tokens: int, window: int = 100, max_tries: int = 1000) -> Incoming:
        incoming = Incoming(ChunkGrid(64, 2, 2, 2), window, RECOVERY, max_tries=max_tries)
        incoming.start(tokens)
        return incoming

    def feed(self, incoming: Incoming, *chunks: int, now: float = NOW, stamp: int = 0) -> None:
        for chunk in chunks:
            assert incoming.receive(chunk, memoryview(bytes([chunk, 0xAA])), stamp, now)

    def want(self, incoming: Incoming, now: float = NOW) -> Want | None:
        payload = incoming.want(55, now)
        if payload is None:
            return None
        want = Want.decode(memoryview(payload), len(incoming.matrix) // 2)
        assert want is not None and want.seen == 55
        return want

    def test_the_chunks_make_the_matrix_in_any_order(self) -> None:
        incoming = self.receiving(3)
        self.feed(incoming, 1, 2, 0)
        assert bytes(incoming.matrix) == b"\0\xaa\1\xaa\2\xaa"
        assert incoming.missing == 0

    def test_the_clean_path_is_silent(self) -> None:
        incoming = self.receiving(3)
        assert incoming.deadline == math.inf
        self.feed(incoming, 0, 1, 2)
        assert self.want(incoming) is None
        assert incoming.deadline == math.inf

    def test_a_second_copy_is_not_taken(self) -> None:
        incoming = self.receiving(2)
        self.feed(incoming, 0)
        assert not incoming.receive(0, memoryview(b"xx"), 0, NOW)
        assert bytes(incoming.matrix[:2]) == b"\0\xaa"

    def test_a_gap_is_asked_for_at_once_and_once(self) -> None:
        incoming = self.receiving(6)
        self.feed(incoming, 0, 3)
        assert self.want(incoming) == Want(False, 55, 0b11_0110)
        assert self.want(incoming) is None
        self.feed(incoming, 4)
        assert self.want(incoming) is None

    def test_the_first_chunk_can_be_the_gap(self) -> None:
        incoming = self.receiving(2)
        self.feed(incoming, 1)
        assert self.want(incoming) == Want(False, 55, 0b01)

    def test_a_swap_within_one_batch_asks_for_nothing(self) -> None:
        incoming = self.receiving(2)
        self.feed(incoming, 1, 0)
        assert self.want(incoming) is None

    def test_a_missing_tail_is_asked_for_after_the_gap_timeout(self) -> None:
        incoming = self.receiving(3)
        self.feed(incoming, 0)
        self.feed(incoming, 1, now=NOW + 0.002)
        # One sample of 2 ms: the timeout is three times that.
        assert incoming.deadline == pytest.approx(NOW + 0.008)
        assert self.want(incoming, NOW + 0.0079) is None
        assert self.want(incoming, NOW + 0.0081) == Want(True, 55, 0b100)

    def test_asking_again_waits_for_the_round_trip_and_doubles(self) -> None:
        incoming = self.receiving(2)
        self.feed(incoming, 0)
        waits = []
        now = NOW
        for _ in range(5):
            waits.append(incoming.deadline - now)
            now = incoming.deadline
            assert self.want(incoming, now) is not None
        assert waits == pytest.approx([0.010, 0.050, 0.100, 0.200, 0.200])

    def test_the_answer_to_a_want_tells_the_round_trip(self) -> None:
        incoming = self.receiving(2)
        self.feed(incoming, 1)
        assert self.want(incoming) is not None
        self.feed(incoming, 0, now=NOW + 0.004, stamp=stamp_of(NOW))
        incoming.start(2)
        self.feed(incoming, 1, now=NOW + 1)
        assert self.want(incoming, NOW + 1) is not None
        assert incoming.deadline == pytest.approx(NOW + 1.012, abs=1e-5)  # 3 * 4 ms

    def test_a_stream_that_goes_on_does_not_make_it_ask_before_the_answer_can_be_there(
        self,
    ) -> None:
        incoming = self.receiving(5)
        self.feed(incoming, 1)
        assert self.want(incoming) is not None
        self.feed(incoming, 2, 3, 4, now=NOW + 0.001)
        assert incoming.deadline == pytest.approx(NOW + 0.050)

    def test_when_the_answer_has_begun_its_rest_is_awaited_as_a_stream(self) -> None:
        incoming = self.receiving(4)
        self.feed(incoming, 3)
        assert self.want(incoming) is not None
        self.feed(incoming, 0, now=NOW + 0.020, stamp=stamp_of(NOW))
        assert incoming.deadline == pytest.approx(NOW + 0.030)

    def test_retransmissions_say_nothing_of_the_time_between_chunks(self) -> None:
        incoming = self.receiving(3)
        self.feed(incoming, 0)
        assert self.want(incoming, NOW + 0.5) is not None
        self.feed(incoming, 1, now=NOW + 0.6)  # late, but not lost
        self.feed(incoming, 2, now=NOW + 0.9, stamp=stamp_of(NOW + 0.5))
        incoming.start(2)
        self.feed(incoming, 0, now=NOW + 2)
        assert incoming.deadline == pytest.approx(NOW + 2.010)

    def test_a_large_matrix_is_acknowledged_every_quarter_of_the_window_and_at_the_end(
        self,
    ) -> None:
        incoming = self.receiving(18, window=16)
        wants = []
        for chunk in range(18):
            self.feed(incoming, chunk)
            want = self.want(incoming)
            if want:
                wants.append((chunk, want.late, want.missing.bit_count()))
        assert wants == [(n, False, 17 - n) for n in (3, 7, 11, 15, 17)]

    def test_the_owner_may_expect_the_first_chunk(self) -> None:
        incoming = self.receiving(2)
        incoming.expect(0.3, NOW)
        assert incoming.deadline == NOW + 0.3
        assert self.want(incoming, NOW + 0.3) == Want(True, 55, 0b11)
        assert incoming.deadline == pytest.approx(NOW + 0.6)
        self.feed(incoming, 0, now=NOW + 0.4)
        incoming.expect(0.3, NOW + 0.4)
        assert incoming.deadline == pytest.approx(NOW + 0.6)

    def test_it_gives_up_until_its_owner_makes_it_ask(self) -> None:
        incoming = self.receiving(2, max_tries=3)
        self.feed(incoming, 0)
        for _ in range(3):
            assert self.want(incoming, incoming.deadline) is not None
        assert incoming.deadline == math.inf
        incoming.ask(NOW + 9)
        assert self.want(incoming, NOW + 9) == Want(True, 55, 0b10)
        assert incoming.deadline < math.inf

    def test_over_tcp_it_never_asks(self) -> None:
        recovery = Recovery(reliable=True)
        incoming = Incoming(ChunkGrid(64, 2, 2, 2), recovery.window(4), recovery)
        incoming.start(64)
        incoming.expect(math.inf, NOW)
        for chunk in range(64):
            assert incoming.deadline == math.inf
            self.feed(incoming, chunk, now=NOW + chunk)
            assert incoming.want(0, NOW + chunk) is None

"""Whole clusters in virtual time: what holds for every link, and how long recovery takes."""

from __future__ import annotations

import pytest
from tests.sync.network import SPACING_S, Cluster, Link, layout

from halo_edge.sync.errors import DeviceStalled
from halo_edge.sync.ids import ROOT, DeviceId, RoundId
from halo_edge.sync.layout import RoundLayout
from halo_edge.sync.timing import Recovery

ROWS = layout()  # two rows a chunk
PIECES = layout(row_bytes=408, max_payload=300)  # two chunks a row

LINKS = {
    "clean": Link(),
    "lossy": Link(loss=0.05),
    "lossier": Link(loss=0.2, delay_s=0.0001),
    "worst": Link(loss=0.6, duplicate=0.1, corrupt=0.05),
    "reordering": Link(jitter_s=0.003, duplicate=0.1),
    "everything": Link(delay_s=0.01, jitter_s=0.01, loss=0.3, duplicate=0.2, corrupt=0.2),
    "fast": Link(delay_s=0.0, loss=0.1),
}


@pytest.mark.parametrize("sizes", [ROWS, PIECES], ids=["rows", "pieces"])
@pytest.mark.parametrize("tokens", [1, 2, 7, 64, 128])
@pytest.mark.parametrize("link", LINKS)
def test_every_round_ends_with_what_the_workers_sent(
    link: str, tokens: int, sizes: RoundLayout
) -> None:
    """`Cluster.run` compares x and the partials, and that each was computed once."""
    # Eight with the longest: only more of the same.
    for seed, n_workers in enumerate((1, 3, 8) if tokens < 128 else (1, 3)):
        cluster = Cluster(sizes, n_workers, LINKS[link], seed=seed)
        for step in range(2):
            for layer in range(2):
                cluster.run(RoundId(step, layer), tokens)


@pytest.mark.parametrize("tokens", [1, 2, 7, 16])
def test_without_loss_every_chunk_travels_once_and_nothing_else(tokens: int) -> None:
    sizes = layout(row_bytes=408, window=32)
    chunks = sizes.x_grid().n_chunks(tokens)
    assert chunks <= sizes.window
    cluster = Cluster(sizes, 3)
    for layer in range(4):
        cluster.run(RoundId(0, layer), tokens)
    cluster.settle(cluster.now + 1)
    assert cluster.root.statistics.datagrams_sent == 4 * 3 * chunks
    for worker in cluster.workers.values():
        assert worker.statistics.datagrams_sent == 4 * chunks


def test_without_loss_a_large_round_is_acknowledged_but_nothing_is_sent_twice() -> None:
    cluster = Cluster(PIECES, 3, Link(delay_s=0.004))
    chunks = PIECES.x_grid().n_chunks(128)
    for layer in range(4):
        cluster.run(RoundId(0, layer), 128)
    cluster.settle(cluster.now + 1)
    most_wants = 4 * (chunks // (PIECES.window // 4) + 1)
    assert cluster.root.statistics.chunks_resent == 0
    assert cluster.root.statistics.wants_sent <= 3 * most_wants
    for worker in cluster.workers.values():
        assert worker.statistics.chunks_resent == 0
        assert worker.statistics.wants_sent <= most_wants


@pytest.mark.parametrize("tokens", [1, 128])
def test_with_loss_but_in_order_hardly_anything_is_sent_needlessly(tokens: int) -> None:
    cluster = Cluster(PIECES, 3, Link(loss=0.1), seed=5)
    for step in range(200 // tokens + 1):
        cluster.run(RoundId(step, 0), tokens)
    counts = [cluster.root.statistics, *(w.statistics for w in cluster.workers.values())]
    resent = sum(statistics.chunks_resent for statistics in counts)
    duplicates = sum(statistics.duplicates for statistics in counts)
    assert resent > 50
    assert duplicates < 0.05 * resent


class TestTimeToRecover:
    """One token, two chunks, 1 ms each way, computing takes 0.5 ms. Everything is warmed up."""

    DEVICE = DeviceId(2)
    RTT_S = 0.002
    ANSWER_S = RTT_S + 0.0005
    SLACK_S = 8 * SPACING_S

    def run(self, *lost: tuple[DeviceId, DeviceId, int]) -> float:
        """The seconds that a round took longer for losing the n-th datagrams from a to b."""
        gone: set[tuple[DeviceId, DeviceId, int]] = set()
        link = Link(drop=lambda sender, receiver, n: (sender, receiver, n) in gone)
        cluster = Cluster(PIECES, 3, link)
        for step in range(60):
            clean_s = cluster.run(RoundId(step, 0), 1)
        assert clean_s < self.ANSWER_S + self.SLACK_S
        # Each direction loses a chunk once and gets it back: now both know their round trip.
        for sender, receiver in ((ROOT, self.DEVICE), (self.DEVICE, ROOT)):
            for _ in range(20):
                gone.add((sender, receiver, cluster.sent[sender, receiver]))
                step += 1
                cluster.run(RoundId(step, 0), 1)
        for sender, receiver, n in lost:
            gone.add((sender, receiver, cluster.sent[sender, receiver] + n))
        return cluster.run(RoundId(step + 1, 0), 1) - clean_s

    def test_a_chunk_of_x_that_another_follows(self) -> None:
        extra_s = self.run((ROOT, self.DEVICE, 0))
        assert 0 < extra_s < self.RTT_S + self.SLACK_S

    def test_a_chunk_of_a_partial_that_another_follows(self) -> None:
        extra_s = self.run((self.DEVICE, ROOT, 0))
        assert 0 < extra_s < self.RTT_S + self.SLACK_S

    @pytest.mark.parametrize("sender", [ROOT, DEVICE])
    def test_a_last_chunk(self, sender: DeviceId) -> None:
        receiver = self.DEVICE if sender == ROOT else ROOT
        gap_timeout_s = Recovery().min_timeout_s
        extra_s = self.run((sender, receiver, 1))
        assert gap_timeout_s < extra_s < gap_timeout_s + self.RTT_S + self.SLACK_S

    def test_a_retransmission(self) -> None:
        """The third datagram is the copy of the first: the round trip's timeout finds it out."""
        extra_s = self.run((ROOT, self.DEVICE, 0), (ROOT, self.DEVICE, 2))
        assert extra_s < 2.5 * self.RTT_S + self.SLACK_S

    def test_a_whole_answer(self) -> None:
        """The root waits a little longer than an answer takes, then asks."""
        extra_s = self.run((self.DEVICE, ROOT, 0), (self.DEVICE, ROOT, 1))
        assert extra_s < 0.2 * self.ANSWER_S + self.RTT_S + self.SLACK_S

    def test_the_whole_of_x(self) -> None:
        """The same, and the worker has to ask for x first."""
        extra_s = self.run((ROOT, self.DEVICE, 0), (ROOT, self.DEVICE, 1))
        assert extra_s < 1.2 * self.ANSWER_S + self.RTT_S + self.SLACK_S


@pytest.mark.parametrize("outage_s", [0.05, 2.0, 8.0])
def test_a_round_goes_on_soon_after_an_outage(outage_s: float) -> None:
    """TCP overshoots: its waits have doubled in the meantime."""
    over = 0.0
    link = Link(drop=lambda sender, receiver, n: cluster.now < over)
    cluster = Cluster(PIECES, 3, link)
    for step in range(20):
        cluster.run(RoundId(step, 0), 7)
    over = cluster.now + outage_s
    took_s = cluster.run(RoundId(20, 0), 7)
    assert outage_s < took_s < outage_s + 0.15


def test_an_outage_in_the_middle_of_x_ends_too() -> None:
    """The worker has asked in vain until it gave up; the root's probe wakes it."""
    since, over = float("inf"), 0.0
    link = Link(drop=lambda sender, receiver, n: since < cluster.now < over)
    cluster = Cluster(PIECES, 2, link)
    cluster.run(RoundId(0, 0), 128)
    since, over = cluster.now + 0.005, cluster.now + 5
    assert 5 < cluster.run(RoundId(1, 0), 128) < 5.5


def test_a_silent_device_stalls_the_round_at_exactly_the_stall_timeout() -> None:
    cluster = Cluster(PIECES, 3, stall_timeout_s=1.25)
    cluster.run(RoundId(0, 0), 2)
    cluster.settle(cluster.now + 7)  # silence between rounds is nobody's fault
    began = cluster.now
    cluster.dead.add(DeviceId(2))
    with pytest.raises(DeviceStalled) as raised:
        cluster.run(RoundId(1, 0), 2)
    assert cluster.now == began + 1.25
    assert raised.value.device == 2
    assert "device 2" in str(raised.value) and "\n" not in str(raised.value)


def test_silence_counts_from_the_last_datagram() -> None:
    """Device 1 gets x, saying what it lacks now and then, and dies in the middle of it."""
    dies_at = 0.0

    def drop(sender: DeviceId, receiver: DeviceId, n: int) -> bool:
        return sender != ROOT and (n % 2 == 0 or cluster.now > dies_at)

    cluster = Cluster(PIECES, 1, Link(drop=drop), stall_timeout_s=0.5, compute_s=1e9)
    dies_at = cluster.now + 0.02
    with pytest.raises(DeviceStalled):
        cluster.run(RoundId(0, 0), 128)
    last = max(time for time, sender, _, _ in cluster.wire if sender != ROOT and time <= dies_at)
    assert cluster.now > last + 0.5


@pytest.mark.parametrize("tokens", [1, 128])
def test_over_tcp_there_are_no_wants_and_no_window(tokens: int) -> None:
    sizes = layout(row_bytes=408, max_payload=60000 // 408 * 34, window=1)
    cluster = Cluster(sizes, 3, recovery=Recovery(reliable=True), compute_s=3.0)
    chunks = sizes.x_grid().n_chunks(tokens)
    for layer in range(3):
        took_s = cluster.run(RoundId(0, layer), tokens)
    assert took_s < 3.0 + 0.002 + 2 * (chunks + 1) * SPACING_S
    assert cluster.root.statistics.datagrams_sent == 3 * 3 * chunks
    for worker in cluster.workers.values():
        assert worker.statistics.datagrams_sent == 3 * chunks


def test_over_tcp_a_silent_device_still_stalls() -> None:
    cluster = Cluster(PIECES, 2, recovery=Recovery(reliable=True), stall_timeout_s=5.0)
    cluster.dead.add(DeviceId(1))
    began = cluster.now
    with pytest.raises(DeviceStalled, match="device 1"):
        cluster.run(RoundId(0, 0), 1)
    assert cluster.now == began + 5.0

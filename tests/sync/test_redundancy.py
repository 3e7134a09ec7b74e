"""How often chunks travel: the choice, what it rests on, and what it brings, in virtual time."""

from __future__ import annotations

import random
from statistics import fmean

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.sync.network import Cluster, Link, layout

from halo_edge.sync.ids import ROOT, DeviceId, RoundId
from halo_edge.sync.layout import RoundLayout
from halo_edge.sync.redundancy import (
    K_DATAGRAM_S,
    NO_LOSS,
    Loss,
    LossMeter,
    choose_copies,
    copies_of,
    cost_s,
    spread,
)
from halo_edge.sync.seal import ReplayWindow
from halo_edge.sync.timing import Recovery

ONE = DeviceId(1)
SHARES = st.floats(0, 1)
CHUNKS = st.integers(1, 32)
DATAGRAM_S = st.floats(K_DATAGRAM_S, 1e-3)
RECOVER_S = st.floats(1e-4, 0.2)
MOST = st.integers(1, 8)


def chosen(
    current: int, n_chunks: int, loss: Loss, datagram_s: float, recover_s: float, most: int
) -> int:
    return choose_copies(
        current, n_chunks, loss, datagram_s=datagram_s, recover_s=recover_s, most=most
    )


class TestChoice:
    @given(MOST, CHUNKS, SHARES, DATAGRAM_S, RECOVER_S, MOST)
    def test_without_loss_there_are_no_copies(
        self, current: int, n: int, again: float, datagram_s: float, recover_s: float, most: int
    ) -> None:
        assert chosen(current, n, Loss(0.0, again), datagram_s, recover_s, most) == 1

    @given(MOST, CHUNKS, SHARES, SHARES, DATAGRAM_S, RECOVER_S, MOST)
    def test_there_are_never_more_than_allowed(
        self,
        current: int,
        n: int,
        lost: float,
        again: float,
        datagram_s: float,
        recover_s: float,
        most: int,
    ) -> None:
        assert 1 <= chosen(current, n, Loss(lost, again), datagram_s, recover_s, most) <= most

    @given(CHUNKS, SHARES, SHARES, DATAGRAM_S, RECOVER_S, MOST)
    def test_where_more_is_lost_there_are_no_fewer_copies(
        self, n: int, p: float, q: float, datagram_s: float, recover_s: float, most: int
    ) -> None:
        """As often as beside a lost one is another lost on both: only p differs."""
        less, more = sorted((p, q))
        few, many = (
            chosen(1, n, Loss(lost, again), datagram_s, recover_s, most)
            for lost, again in ((less, more), (more, more))
        )
        assert few <= many

    @given(SHARES, CHUNKS, DATAGRAM_S, RECOVER_S, MOST)
    def test_where_independent_losses_grow_there_are_no_fewer_copies(
        self, p: float, n: int, datagram_s: float, recover_s: float, most: int
    ) -> None:
        shares = [p * k / 8 * 0.5 for k in range(9)]
        copies = [chosen(1, n, Loss(p, p), datagram_s, recover_s, most) for p in shares]
        assert copies == sorted(copies)

    @given(MOST, SHARES, SHARES, CHUNKS, DATAGRAM_S, RECOVER_S, MOST)
    def test_it_does_not_flutter(
        self,
        current: int,
        lost: float,
        again: float,
        n: int,
        datagram_s: float,
        recover_s: float,
        most: int,
    ) -> None:
        loss = Loss(lost, again)
        first = chosen(current, n, loss, datagram_s, recover_s, most)
        assert chosen(first, n, loss, datagram_s, recover_s, most) == first

    @given(st.floats(0.001, 0.5), CHUNKS, DATAGRAM_S, RECOVER_S)
    def test_what_it_changes_to_costs_less(
        self, lost: float, n: int, datagram_s: float, recover_s: float
    ) -> None:
        loss = Loss(lost, lost)
        copies = chosen(1, n, loss, datagram_s, recover_s, 4)
        before, after = (cost_s(r, n, loss, datagram_s, recover_s) for r in (1, copies))
        assert copies == 1 or after < before

    def test_in_bursts_copies_do_not_pay(self) -> None:
        assert chosen(1, 2, Loss(0.05, 0.95), K_DATAGRAM_S, 0.003, 4) == 1
        assert chosen(1, 2, Loss(0.05, 0.05), K_DATAGRAM_S, 0.003, 4) > 1

    def test_on_a_slow_link_they_do_not_either(self) -> None:
        assert chosen(1, 2, Loss(0.05, 0.05), 0.001, 0.003, 4) == 1


@given(st.integers(1, 200), st.integers(1, 8), st.integers(1, 64))
def test_all_copies_together_stay_within_the_window(n: int, copies: int, window: int) -> None:
    r = copies_of(n, copies, window)
    assert 1 <= r <= copies
    assert r == 1 or r * n <= window


def test_copies_go_round_after_round() -> None:
    assert spread([("a", 1), ("b", 3), ("c", 2)]) == list("abcbcb")
    assert spread([]) == []


def arrives(meter: LossMeter, serial: int, n: int, copies: int, first: int) -> None:
    """A chunk that was sent unasked."""
    if serial == meter.serial:
        meter.arrived += 1
    else:
        meter.matrix(serial, n, copies, first)


class TestMeter:
    """Matrices of `n` chunks, each sent `copies` times, through a link that loses some of them."""

    def measure(
        self, lose: list[bool], n: int, copies: int, groups: int, seed: int = 0
    ) -> LossMeter:
        """`lose`: what happens to one datagram after the other, over and over."""
        window = ReplayWindow()
        meter = LossMeter(window)
        fate = 0
        for group in range(groups):
            first, serial = 1 + group * n, group + 1 & 0xFF
            for _ in range(copies):
                for chunk in range(n):
                    lost = lose[fate % len(lose)]
                    fate += 1
                    counter = first + chunk
                    if lost:
                        continue
                    if window.is_new(counter):
                        window.add(counter)
                        arrives(meter, serial, n, copies, first)
                    else:
                        window.repeated(counter)
        return meter

    @pytest.mark.parametrize(("n", "copies"), [(1, 1), (2, 1), (1, 2), (2, 3), (4, 4)])
    @pytest.mark.parametrize("share", [0.02, 0.1, 0.3])
    def test_independent_losses(self, n: int, copies: int, share: float) -> None:
        rng = random.Random(f"{n} {copies} {share}")
        meter = self.measure([rng.random() < share for _ in range(50_000)], n, copies, 3000)
        assert meter.loss.lost == pytest.approx(share, rel=0.5, abs=0.015)
        assert meter.loss.again <= 3 * share + 0.1

    @pytest.mark.parametrize(("n", "copies"), [(2, 1), (1, 2), (2, 3)])
    def test_bursts(self, n: int, copies: int) -> None:
        meter = self.measure([True] * 6 + [False] * 100, n, copies, 2000)
        assert 0.01 < meter.loss.lost < 0.2
        assert meter.loss.again > 0.55

    def test_nothing_lost_is_nothing_lost(self) -> None:
        assert self.measure([False], 2, 2, 600).loss == NO_LOSS

    def test_what_was_lost_long_ago_is_forgotten(self) -> None:
        fates = [n % 5 == 0 for n in range(400)] + [False] * 100_000
        meter = self.measure(fates, 2, 1, 2000)
        assert Loss.decode(*meter.loss.encode()).lost == 0

    def test_a_device_left_out_for_many_rounds_has_lost_nothing(self) -> None:
        window = ReplayWindow()
        meter = LossMeter(window)
        for serial in range(1, 200, 10):
            window.add(serial)
            arrives(meter, serial, 1, 1, serial)
        assert meter.loss == NO_LOSS

    def test_what_is_not_to_be_measured_is_not(self) -> None:
        window = ReplayWindow()
        meter = LossMeter(window)
        for serial in range(1, 100):
            arrives(meter, serial, 0, 1, serial)
        assert meter.loss == NO_LOSS


@given(SHARES, SHARES)
def test_a_loss_survives_the_wire(lost: float, again: float) -> None:
    decoded = Loss.decode(*Loss(lost, again).encode())
    assert decoded.lost == pytest.approx(lost, abs=0.002)
    assert decoded.again == pytest.approx(again, abs=0.002)


SMALL = layout(row_bytes=272, max_payload=300, window=64)  # one chunk
PIECES = layout(row_bytes=408, max_payload=300, window=64)  # two


def decode(cluster: Cluster, n: int) -> list[float]:
    """The seconds of each of the next `n` rounds of one token."""
    first = cluster.root.statistics.rounds
    return [cluster.run(RoundId(i // 4, i % 4), 1) for i in range(first, first + n)]


def bursts(cluster: Cluster) -> None:
    """20 ms in 400 on every link, each at its own times."""
    cluster.link.drop = lambda sender, receiver, n: (
        (cluster.now + 0.1 * (sender + receiver)) % 0.4 > 0.38
    )


@pytest.mark.parametrize("sizes", [SMALL, PIECES], ids=["one chunk", "two chunks"])
@pytest.mark.parametrize("loss", [0.05, 0.1, 0.2])
def test_lossy_links_become_faster(loss: float, sizes: RoundLayout) -> None:
    means = []
    for most in (1, 4):
        cluster = Cluster(sizes, 3, Link(loss=loss), seed=7, recovery=Recovery(max_copies=most))
        decode(cluster, 60)
        means.append(fmean(decode(cluster, 400)))
    assert means[1] < 0.8 * means[0]
    assert means[1] < 1.15 * 0.0025


def test_the_copies_are_there_soon_after_the_loss_begins() -> None:
    cluster = Cluster(PIECES, 3, seed=2, recovery=Recovery(max_copies=4))
    decode(cluster, 100)
    cluster.link.loss = 0.1
    decode(cluster, 34)
    links = [cluster.root.link(device) for device in cluster.devices]
    assert all(max(link.copies_to, link.copies_from) > 1 for link in links)


def test_copies_go_where_losses_are() -> None:
    """Only device 1 loses, and only what is sent to it."""
    rng = random.Random(4)
    link = Link(drop=lambda sender, receiver, n: receiver == ONE and rng.random() < 0.1)
    cluster = Cluster(PIECES, 3, link, recovery=Recovery(max_copies=4))
    decode(cluster, 200)
    reports = [cluster.root.link(device) for device in cluster.devices]
    assert reports[0].copies_to > 1
    assert reports[0].loss_to == pytest.approx(0.1, abs=0.05)
    assert [reports[0].copies_from, reports[0].loss_from] == [1, 0]
    for report in reports[1:]:
        assert (report.copies_to, report.copies_from) == (1, 1)
        assert (report.loss_to, report.loss_from) == (0, 0)


@pytest.mark.parametrize("sizes", [SMALL, PIECES], ids=["one chunk", "two chunks"])
def test_on_a_clean_link_nothing_is_ever_sent_twice(sizes: RoundLayout) -> None:
    cluster = Cluster(sizes, 3, recovery=Recovery(max_copies=4))
    decode(cluster, 300)
    chunks = sizes.x_grid().n_chunks(1)
    assert cluster.root.statistics.datagrams_sent == 300 * 3 * chunks
    for worker in cluster.workers.values():
        assert worker.statistics.datagrams_sent == 300 * chunks


def test_when_the_loss_is_over_so_are_the_copies() -> None:
    cluster = Cluster(PIECES, 2, Link(loss=0.2), seed=3, recovery=Recovery(max_copies=4))
    decode(cluster, 200)
    assert cluster.root.link(ONE).copies_to > 1
    cluster.link.loss = 0.0
    decode(cluster, 1000)
    for device in cluster.devices:
        link = cluster.root.link(device)
        assert (link.copies_to, link.copies_from) == (1, 1)


@pytest.mark.parametrize("sizes", [SMALL, PIECES], ids=["one chunk", "two chunks"])
def test_in_bursts_copies_are_given_up(sizes: RoundLayout) -> None:
    """With them the rounds are no slower, and little more is sent."""
    means, sent = [], []
    for most in (1, 4):
        cluster = Cluster(sizes, 2, recovery=Recovery(max_copies=most))
        bursts(cluster)
        decode(cluster, 1000)
        before = cluster.root.statistics.datagrams_sent
        means.append(fmean(decode(cluster, 1000)))
        sent.append(cluster.root.statistics.datagrams_sent - before)
    assert means[1] < 1.02 * means[0]
    assert sent[1] < 1.5 * sent[0]


def test_a_prefill_larger_than_the_window_is_sent_once() -> None:
    cluster = Cluster(PIECES, 2, Link(loss=0.1), seed=1, recovery=Recovery(max_copies=4))
    decode(cluster, 100)
    assert cluster.root.link(ONE).copies_to > 1
    before = cluster.sent[ROOT, ONE]
    chunks = PIECES.x_grid().n_chunks(128)
    cluster.run(RoundId(999, 0), 128)
    assert cluster.sent[ROOT, ONE] - before < 2 * chunks

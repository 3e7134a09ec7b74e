"""What a link does to packets: statistics within five standard deviations, from fixed seeds."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from halo_edge.lab.link import Burst, Link, LinkCounters, LinkSettings

FRAME = 1514


def link(settings: LinkSettings, seed: int = 1) -> Link:
    return Link(settings, f"{seed}/n1/down")


def passed(link: Link, packets: int, gap_s: float = 1e-3) -> list[bool]:
    """Which of so many packets, `gap_s` apart, arrive."""
    return [bool(link.send(FRAME, i * gap_s)) for i in range(packets)]


def five_sigma(share: float, packets: int) -> float:
    return 5 * math.sqrt(share * (1 - share) / packets)


@st.composite
def settings(draw: st.DrawFn) -> LinkSettings:
    share = st.floats(0, 1)
    ms = st.floats(0, 50)
    burst = st.builds(Burst, st.floats(0.01, 100), st.floats(0.01, 100), share)
    return LinkSettings(
        loss=draw(share),
        burst=draw(st.none() | burst),
        delay_ms=draw(ms),
        jitter_ms=draw(ms),
        rate_mbit=draw(st.none() | st.floats(0.1, 1000)),
        queue_ms=draw(ms),
        duplicate=draw(share),
        corrupt=draw(share),
        reorder=draw(share),
        cut=draw(st.booleans()),
    )


class TestLoss:
    def test_none(self) -> None:
        clean = link(LinkSettings())
        assert clean.send(FRAME, 5.0) == ((5.0, -1),)
        assert clean.counters == LinkCounters(offered=1)

    @pytest.mark.parametrize("loss", [0.01, 0.05, 0.3, 1.0])
    @pytest.mark.parametrize("seed", [1, 2])
    def test_share(self, loss: float, seed: int) -> None:
        packets = 50_000
        lossy = link(LinkSettings(loss=loss), seed)
        lost = packets - sum(passed(lossy, packets))
        assert lost / packets == pytest.approx(loss, abs=five_sigma(loss, packets))
        assert lossy.counters == LinkCounters(offered=packets, lost=lost)
        assert lossy.counters.realised_loss == lost / packets

    def test_each_packet_by_itself(self) -> None:
        """What was lost says nothing of the next."""
        arrived = passed(link(LinkSettings(loss=0.3)), 50_000)
        after_loss = [after for before, after in pairwise(arrived) if not before]
        lost = after_loss.count(False) / len(after_loss)
        assert lost == pytest.approx(0.3, abs=five_sigma(0.3, len(after_loss)))

    def test_the_seed_decides(self) -> None:
        lossy = LinkSettings(loss=0.3, jitter_ms=5, reorder=0.2, corrupt=0.1)
        first, same, other = (link(lossy, seed) for seed in (7, 7, 8))
        sent = [[way.send(FRAME, i * 1e-3) for i in range(200)] for way in (first, same, other)]
        assert sent[0] == sent[1] != sent[2]

    def test_up_and_down_differ(self) -> None:
        up, down = (Link(LinkSettings(loss=0.5), f"7/n1/{way}") for way in ("up", "down"))
        assert passed(up, 100) != passed(down, 100)


class TestBurst:
    BURST = Burst(good_ms=90, bad_ms=30)

    def test_mean_loss(self) -> None:
        assert self.BURST.mean_loss == 0.25
        assert LinkSettings(loss=0.2, burst=self.BURST).mean_loss == pytest.approx(0.4)
        assert Burst(90, 30, loss=0.5).mean_loss == 0.125

    @pytest.mark.parametrize("gap_s", [0.5e-3, 5e-3])
    def test_lasts_as_long_however_much_is_sent(self, gap_s: float) -> None:
        """Runs of loss have the mean length of a burst in time, and not in packets."""
        seconds = 300.0
        arrived = passed(link(LinkSettings(burst=self.BURST)), int(seconds / gap_s), gap_s)
        bursts = sum(before and not after for before, after in pairwise(arrived))
        # How often a packet finds a good link and the next a bad one: a two-state Markov chain.
        both = 0.75 * 0.25 * (1 - math.exp(-gap_s / 0.090 - gap_s / 0.030))
        assert bursts == pytest.approx(len(arrived) * both, rel=0.05)
        assert arrived.count(False) / len(arrived) == pytest.approx(0.25, abs=0.02)

    def test_partial_loss_within(self) -> None:
        lossy = link(LinkSettings(burst=Burst(90, 30, loss=0.5)))
        arrived = passed(lossy, 400_000)
        assert arrived.count(False) / len(arrived) == pytest.approx(0.125, abs=0.01)
        assert lossy.counters.lost == arrived.count(False)

    def test_comes_on_top_of_loss(self) -> None:
        arrived = passed(link(LinkSettings(loss=0.2, burst=self.BURST)), 400_000)
        assert arrived.count(False) / len(arrived) == pytest.approx(0.4, abs=0.02)

    @pytest.mark.parametrize("idle_s", [10.0, 1e9])
    def test_an_idle_link_recovers(self, idle_s: float) -> None:
        """After a pause, however long, it is as likely to be bad as ever, and quick to know."""
        lossy = link(LinkSettings(burst=self.BURST))
        packets = 2000
        lost = packets - sum(passed(lossy, packets, idle_s))
        assert lost / packets == pytest.approx(0.25, abs=five_sigma(0.25, packets))


class TestDelay:
    @given(settings(), st.lists(st.tuples(st.floats(0, 0.02), st.integers(14, FRAME)), max_size=60))
    def test_never_early_and_always_accounted_for(
        self, settings: LinkSettings, packets: list[tuple[float, int]]
    ) -> None:
        way, now, delivered, repeated = link(settings), 0.0, 0, 0
        for gap_s, nbytes in packets:
            now += gap_s
            arrivals = way.send(nbytes, now)
            delivered += bool(arrivals)
            repeated += len(arrivals) == 2
            for arrival in arrivals:
                assert arrival.at_s >= now + settings.delay_ms / 1e3
                assert -1 <= arrival.damaged < 8 * nbytes
        counters = way.counters
        assert counters.offered == len(packets)
        assert delivered + counters.lost + counters.overflowed + counters.cut == len(packets)
        assert not (settings.cut and delivered)
        assert not (repeated and settings.duplicate == 0)

    @given(settings(), settings(), st.lists(st.floats(0, 0.02), max_size=60))
    def test_order_is_kept_whatever_changes(
        self, first: LinkSettings, then: LinkSettings, gaps_s: list[float]
    ) -> None:
        way = link(replace(first, reorder=0))
        now, arrivals = 0.0, []
        for i, gap_s in enumerate(gaps_s):
            now += gap_s
            if i == len(gaps_s) // 2:
                way.settings = replace(then, reorder=0)
            arrivals += [arrival.at_s for arrival in way.send(FRAME, now)]
        assert arrivals == sorted(arrivals)

    def test_jitter_is_uniform_on_top(self) -> None:
        way = link(LinkSettings(delay_ms=2, jitter_ms=6))
        delays_ms = [(way.send(FRAME, i)[0].at_s - i) * 1e3 for i in range(20_000)]
        assert 2 <= min(delays_ms) < 2.01
        assert 7.99 < max(delays_ms) <= 8 + 1e-6
        assert sum(delays_ms) / len(delays_ms) == pytest.approx(5, abs=0.1)

    @pytest.mark.parametrize("reorder", [0.0, 0.1, 1.0])
    def test_overtaking(self, reorder: float) -> None:
        way = link(LinkSettings(jitter_ms=10, reorder=reorder))
        at = [way.send(FRAME, i * 1e-3)[0].at_s for i in range(5000)]
        overtaken = sum(after < before for before, after in pairwise(at))
        assert (overtaken > 0) == (reorder > 0)


class TestRate:
    RATE = LinkSettings(rate_mbit=12.112, queue_ms=1000)  # a frame in 1 ms

    def test_spaces_packets(self) -> None:
        way = link(self.RATE)
        at = [way.send(FRAME, 0.0)[0].at_s for _ in range(100)]
        assert at == pytest.approx([(i + 1) * 1e-3 for i in range(100)])
        assert way.send(FRAME, 5.0)[0].at_s == pytest.approx(5.001)

    def test_its_queue_overflows(self) -> None:
        """One under way, and 20 that wait 20.5 ms at most; what overflows is no loss."""
        way = link(LinkSettings(rate_mbit=12.112, queue_ms=20.5))
        arrived = [bool(way.send(FRAME, 0.0)) for _ in range(100)]
        assert arrived == [True] * 21 + [False] * 79
        assert way.counters == LinkCounters(offered=100, overflowed=79)
        assert way.counters.realised_loss == 0
        assert way.send(FRAME, 0.0006)  # there is room again

    def test_lost_packets_have_used_the_link(self) -> None:
        way = link(LinkSettings(rate_mbit=12.112, queue_ms=1000, loss=1.0))
        for _ in range(10):
            way.send(FRAME, 0.0)
        way.settings = self.RATE
        assert way.send(FRAME, 0.0)[0].at_s == pytest.approx(0.011)


class TestDamageAndRepetition:
    def test_repeated(self) -> None:
        packets = 20_000
        way = link(LinkSettings(duplicate=0.2))
        twice = sum(len(way.send(FRAME, i)) == 2 for i in range(packets))
        assert twice / packets == pytest.approx(0.2, abs=five_sigma(0.2, packets))
        assert way.counters == LinkCounters(offered=packets)

    def test_damaged_anywhere(self) -> None:
        packets = 20_000
        way = link(LinkSettings(corrupt=0.2))
        bits = [way.send(FRAME, i)[0].damaged for i in range(packets)]
        damaged = [bit for bit in bits if bit >= 0]
        assert len(damaged) / packets == pytest.approx(0.2, abs=five_sigma(0.2, packets))
        assert min(damaged) < 100 and max(damaged) >= 8 * FRAME - 100
        assert sum(damaged) / len(damaged) == pytest.approx(4 * FRAME, rel=0.05)


class TestCut:
    def test_and_joined(self) -> None:
        way = link(LinkSettings(loss=0.5, cut=True))
        assert not any(passed(way, 100))
        assert way.counters == LinkCounters(offered=100, cut=100)
        way.settings = LinkSettings()
        assert all(passed(way, 100))

    def test_mean_loss(self) -> None:
        assert LinkSettings(cut=True).mean_loss == 1


@pytest.mark.parametrize(
    ("wrong", "name"),
    [
        ({"loss": 1.1}, "loss"),
        ({"loss": math.nan}, "loss"),
        ({"duplicate": -0.1}, "duplicate"),
        ({"corrupt": 2}, "corrupt"),
        ({"reorder": math.inf}, "reorder"),
        ({"delay_ms": -1}, "delay_ms"),
        ({"delay_ms": 10_001}, "delay_ms"),
        ({"jitter_ms": math.nan}, "jitter_ms"),
        ({"queue_ms": math.inf}, "queue_ms"),
        ({"rate_mbit": 0}, "rate_mbit"),
        ({"rate_mbit": math.inf}, "rate_mbit"),
        ({"rate_mbit": math.nan}, "rate_mbit"),
    ],
)
def test_settings_that_make_no_sense(wrong: dict[str, float], name: str) -> None:
    with pytest.raises(ValueError, match=name):
        LinkSettings(**wrong)


@pytest.mark.parametrize("wrong", [(0, 10), (10, 0), (math.inf, 10), (10, math.nan), (9, 1, 1.5)])
def test_bursts_that_make_no_sense(wrong: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="burst"):
        Burst(*wrong)

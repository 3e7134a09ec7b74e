"""Waiting for what is lost: probabilities, and the maximum of several."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.plan.clusters import cluster, worker, workload

from halo_edge.plan.device import Device
from halo_edge.plan.losses import Delay, Fates, Losses, expected_end_s, mean_s
from halo_edge.plan.plan import Copies
from halo_edge.plan.timeline import Timelines
from halo_edge.sync import timing

ONCE = Copies()


def losses_of(*workers: Device) -> Losses:
    return Losses(Timelines(cluster(*workers), workload()))


@given(st.integers(1, 200), st.floats(0, 0.9))
def test_something_happens_to_every_matrix(chunks: int, missing: float) -> None:
    fates = Fates.of(chunks, missing)
    assert sum(fates) == pytest.approx(1)
    assert all(0 <= probability <= 1 for probability in fates)


def test_fates_by_hand() -> None:
    fates = Fates.of(2, 0.1)
    assert fates == pytest.approx((0.81, 0.09, 0.09, 0.01))
    assert Fates.of(1, 0.1) == pytest.approx((0.9, 0.0, 0.0, 0.1))


class TestExpectedEnd:
    def test_nothing_is_late(self) -> None:
        assert expected_end_s([(1.0, [Delay(1.0, 0.0)]), (2.0, [Delay(1.0, 0.0)])], 0.5) == 2.0
        assert expected_end_s([], 3.0) == 3.0

    def test_one_is_late_on_average(self) -> None:
        delays = [Delay(0.75, 0.0), Delay(0.25, 4.0)]
        assert expected_end_s([(1.0, delays)], 0.0) == pytest.approx(2.0)
        # Half of the delay is over before the root is ready itself.
        assert expected_end_s([(1.0, delays)], 3.0) == pytest.approx(3.5)

    def test_of_several_the_slowest(self) -> None:
        delays = [Delay(0.5, 0.0), Delay(0.5, 1.0)]
        assert expected_end_s([(0.0, delays)] * 3, 0.0) == pytest.approx(1 - 0.5**3)

    def test_as_drawing_lots_has_it(self) -> None:
        seed = 5
        rng = random.Random(seed)
        ends = []
        for _ in range(6):
            late = rng.uniform(0, 0.3)
            delays = [
                Delay(1 - late, 0.0),
                Delay(late / 2, rng.random()),
                Delay(late / 2, rng.random()),
            ]
            ends.append((rng.random() / 4, delays))

        def lot() -> float:
            return max(
                there_s + rng.choices([d.seconds for d in delays], [d[0] for d in delays])[0]
                for there_s, delays in ends
            )

        drawn = sum(lot() for _ in range(20_000)) / 20_000
        assert expected_end_s(ends, 0.0) == pytest.approx(drawn, rel=0.02), f"seed {seed}"


class TestDelays:
    def of(self, loss: float, copies: Copies = ONCE, given_up: float = 0.0) -> list[Delay]:
        losses = losses_of(worker(rtt_ms=2, loss=loss))
        round_ = losses._timelines.round([44, 44], [copies] * 2, 1)
        return losses.delays(1, round_, copies, 1, given_up)

    def test_a_clean_link_delays_nothing(self) -> None:
        assert self.of(0.0) == [Delay(1.0, 0.0)]

    def test_probabilities_add_up(self) -> None:
        for given_up in (0.0, 0.4, 1.0):
            delays = self.of(0.1, given_up=given_up)
            assert sum(delay.probability for delay in delays) == pytest.approx(1)

    def test_a_recovery_takes_a_round_trip_at_least(self) -> None:
        late = [delay.seconds for delay in self.of(0.05) if delay.seconds]
        assert 0.002 < min(late) < 0.004
        assert max(late) < 0.05

    def test_more_loss_more_waiting_copies_less(self) -> None:
        waits = [mean_s(self.of(loss)) for loss in (0.01, 0.05, 0.2)]
        assert waits == sorted(waits) and waits[0] > 0
        assert mean_s(self.of(0.05, Copies(2, 2))) < 0.2 * waits[1]

    def test_what_is_given_up_is_waited_for_less(self) -> None:
        waits = [mean_s(self.of(0.05, given_up=share)) for share in (0.0, 0.5, 1.0)]
        assert waits[0] > waits[1] > waits[2] >= 0
        assert waits[2] < 0.2 * waits[0]


class TestCopies:
    def test_none_where_nothing_is_lost(self) -> None:
        assert losses_of(worker()).copies(1) == Copies(1, 1)

    def test_more_where_more_is_lost(self) -> None:
        chosen = [losses_of(worker(rtt_ms=2, loss=loss)).copies(1) for loss in (0.001, 0.1, 0.4)]
        assert chosen[0] == (1, 1)
        assert chosen[1].x >= 2 and chosen[1].partial >= 2
        assert chosen[2].x > chosen[1].x

    def test_none_where_they_help_not(self) -> None:
        assert losses_of(worker(rtt_ms=2, loss=0.1, again=1.0)).copies(1) == (1, 1)
        assert losses_of(worker(rtt_ms=2, loss=0.1, mbit=2)).copies(1) == (1, 1)


def test_missing_is_all_that_does_not_come_by_itself() -> None:
    losses = losses_of(worker(loss=0.1))
    assert losses.missing(1, Copies(1, 1)) == pytest.approx(1 - 0.9**2 * 0.9)  # x: two chunks
    assert losses.missing(1, Copies(2, 2)) == pytest.approx(1 - 0.99**2 * 0.99)


def test_constants_are_the_protocol_s() -> None:
    from halo_edge.plan import losses
    from halo_edge.sync import redundancy

    recovery = timing.Recovery()
    assert recovery.min_gap_s == losses.GAP_S
    assert recovery.min_timeout_s == losses.MIN_TIMEOUT_S
    assert recovery.min_variation_s == losses.MIN_MARGIN_S
    assert timing.K_VARIATIONS == losses.VARIATIONS
    assert timing.K_COPIES == losses.COPIES_AGAIN
    assert redundancy.K_DATAGRAM_S == losses.DATAGRAM_S

"""The table of presence, and what it makes of outages, pauses and flapping in virtual time."""

from __future__ import annotations

import math
from itertools import product
from statistics import fmean

import pytest
from tests.sync.forged import Hand
from tests.sync.network import Cluster, Link, layout

from halo_edge.sync.datagram import Message
from halo_edge.sync.errors import DeviceStalled
from halo_edge.sync.ids import DeviceId, RoundId
from halo_edge.sync.presence import Event, Presence, State, after
from halo_edge.sync.timing import Recovery

ONE, TWO = DeviceId(1), DeviceId(2)
PIECES = layout(row_bytes=408, max_payload=300, window=64)
TAKE_OVER = Recovery(away_after_s=0.05)
ATTENTION_S = 0.001  # between two rounds


def test_every_event_leads_somewhere_from_every_state() -> None:
    for state, event in product(State, Event):
        assert after(state, event) in State


def test_one_overdue_answer_sends_only_a_returned_device_away() -> None:
    assert after(State.PRESENT, Event.OVERDUE) is State.PRESENT
    assert after(State.RETURNED, Event.OVERDUE) is State.AWAY
    assert after(State.PRESENT, Event.SILENT) is State.AWAY


def test_only_a_whole_answer_makes_a_returned_device_present() -> None:
    assert after(State.AWAY, Event.HEARD) is State.RETURNED
    assert after(State.RETURNED, Event.HEARD) is State.RETURNED
    assert after(State.RETURNED, Event.ANSWERED) is State.PRESENT


def test_what_belongs_to_rounds_before_it_left_does_not_bring_it_back() -> None:
    presence = Presence(0.02)
    presence.heard(RoundId(3, 0), 1.0)
    presence.missed(Event.SILENT, RoundId(3, 2), 1.1)
    presence.heard(RoundId(3, 1), 1.2)
    assert presence.away and presence.silent_since == 1.0
    presence.heard(RoundId(3, 2), 1.3)
    assert presence.state is State.RETURNED and presence.silent_since == 1.3


def test_probes_come_no_faster_than_they_may_and_never_cease() -> None:
    presence = Presence(0.02)
    presence.missed(Event.SILENT, RoundId(0, 0), 5.0)
    now, waits = 5.0, []
    for _ in range(6):
        waits.append(presence.probe_at - now)
        now = presence.probe_at
        presence.probed(now, answer_s=0.003)
    assert waits == pytest.approx([0.02, 0.02, 0.04, 0.08, 0.16, 0.16])


def test_a_device_that_computes_long_is_probed_rarely_enough_to_answer() -> None:
    presence = Presence(0.02)
    presence.missed(Event.SILENT, RoundId(0, 0), 5.0)
    presence.probed(5.02, answer_s=3.0)
    assert presence.probe_at == 11.02


class Run:
    """A cluster that decodes, round after round, its owner taking over from those away."""

    def __init__(self, link: Link | None = None, recovery: Recovery = TAKE_OVER) -> None:
        self.cluster = Cluster(
            PIECES, 3, link or Link(), recovery=recovery, owner=lambda cluster: cluster.take_over()
        )
        self.round = 0

    def rounds(self, n: int = 0, until: float = math.inf) -> list[float]:
        """So many, or up to that time; the seconds that each took."""
        took = []
        while len(took) < n or (not n and self.cluster.now < until):
            took.append(self.cluster.run(RoundId(self.round // 4, self.round % 4), 1))
            self.cluster.settle(self.cluster.now + ATTENTION_S)
            self.round += 1
        return took

    def cut(self, device: DeviceId, lasts_s: float, period_s: float = 1e9, up_s: float = 0) -> None:
        """From now on; every `period_s` the link is up for `up_s`."""
        since, until = self.cluster.now, self.cluster.now + lasts_s

        def drop(sender: DeviceId, receiver: DeviceId, n: int) -> bool:
            now = self.cluster.now
            return (
                device in (sender, receiver)
                and since <= now < until
                and not (now - since) % period_s < up_s
            )

        self.cluster.link.drop = drop


def test_an_outage_of_two_seconds_costs_one_silence_and_then_nothing() -> None:
    run = Run()
    clean_s = fmean(run.rounds(100))
    over = run.cluster.now + 2
    run.cut(TWO, 2.0)
    took = run.rounds(until=over)
    assert run.cluster.root.away == {TWO}
    assert max(took) == took[0] < TAKE_OVER.away_after_s + 0.005
    assert fmean(took[1:]) < clean_s * 1.01
    back = run.rounds(200)
    assert run.cluster.root.away == frozenset()
    assert fmean(back) < clean_s * 1.01
    supplied = run.cluster.root.statistics.chunks_supplied
    run.rounds(20)
    assert run.cluster.root.statistics.chunks_supplied == supplied, "it has its work again"


def test_a_device_that_is_away_is_probed_and_not_asked() -> None:
    run = Run()
    run.rounds(50)
    run.cut(TWO, 10.0)
    run.rounds(20)
    assert run.cluster.root.away == {TWO}
    began = run.cluster.now
    before = dict(run.cluster.sent)
    run.rounds(until=began + 2)
    sent = run.cluster.sent[DeviceId(0), TWO] - before[DeviceId(0), TWO]
    chunks = PIECES.x_grid().n_chunks(1)
    assert 2 / 0.17 * chunks < sent < 2 / 0.02 * chunks


def test_a_device_that_comes_back_gets_its_work_back_soon() -> None:
    run = Run()
    run.rounds(50)
    run.cut(TWO, 0.2)
    over = run.cluster.now + 0.2
    run.rounds(until=over)
    while run.cluster.root.away:
        run.rounds(1)
    assert run.cluster.now < over + 0.17


@pytest.mark.parametrize("stopped_s", [0.03, 1.0])
def test_what_a_stopped_worker_says_when_it_goes_on_harms_nothing(stopped_s: float) -> None:
    """`Cluster` compares every partial, and that no round is computed twice."""
    run = Run()
    clean_s = fmean(run.rounds(100))
    run.cluster.stopped[TWO] = run.cluster.now + stopped_s
    computed = len(run.cluster.computed)
    took = run.rounds(until=run.cluster.now + 2)
    assert max(took) < min(stopped_s, TAKE_OVER.away_after_s) + 0.005
    assert fmean(took[-100:]) < clean_s * 1.01
    assert run.cluster.root.away == frozenset()
    backlog = [id_ for device, id_ in run.cluster.computed[computed:] if device == TWO]
    assert len(backlog) > len(took) / 4, "it works again"


def test_late_answers_of_before_do_not_bring_a_device_back() -> None:
    run = Run()
    run.rounds(100)
    run.cluster.stopped[TWO] = run.cluster.now + 0.5
    run.rounds(50)
    assert run.cluster.root.away == {TWO}
    last = RoundId(run.round // 4 - 20, 0)
    stale = run.cluster.root.statistics.stale
    answers = run.cluster.root.link(TWO).answer_s
    hand = Hand(TWO)
    hand.sealer.counter = 10_000
    for chunk in range(2):
        said = hand.say(
            Message.PARTIAL,
            step=last.step,
            layer=last.layer,
            tokens=1,
            chunk=chunk,
            payload=bytes(204),
        )
        run.cluster.root.receive(said, run.cluster.now)
    assert run.cluster.root.statistics.stale == stale + 2
    assert run.cluster.root.away == {TWO}
    assert run.cluster.root.link(TWO).answer_s == answers


def test_a_link_that_comes_and_goes_does_not_cost_the_silence_every_time() -> None:
    run = Run()
    clean_s = fmean(run.rounds(100))
    over = run.cluster.now + 3
    run.cut(TWO, 3.0, period_s=0.1, up_s=0.004)
    took = run.rounds(until=over)
    assert sum(took_s > 0.01 for took_s in took) <= 3
    assert fmean(took) < 1.15 * clean_s


def test_a_device_that_is_slow_is_waited_for() -> None:
    run = Run()
    run.rounds(100)
    run.cluster.compute_s = 0.03
    run.rounds(300)
    assert run.cluster.root.away == frozenset()
    assert run.cluster.root.statistics.chunks_supplied == 0


def test_a_device_so_slow_that_it_passed_for_away_is_learned_to_be_slow() -> None:
    run = Run()
    run.rounds(100)
    run.cluster.compute_s = 0.08
    run.rounds(until=run.cluster.now + 3)
    assert run.cluster.root.away == frozenset()
    answer_s = run.cluster.root.link(TWO).answer_s
    assert answer_s is not None and answer_s > 0.02


@pytest.mark.parametrize("seconds", [3.0, 9.0])
def test_a_first_prefill_may_take_long(seconds: float) -> None:
    run = Run()
    run.cluster.compute_s = seconds
    run.cluster.run(RoundId(0, 0), 128)
    assert run.cluster.root.statistics.chunks_supplied == 0


def test_a_prefill_after_some_decoding_may_take_as_many_times_longer_as_it_has_tokens() -> None:
    run = Run()
    run.rounds(100)
    run.cluster.compute_s *= 128
    run.cluster.run(RoundId(1000, 0), 128)
    assert run.cluster.root.statistics.chunks_supplied == 0


def test_a_pause_between_rounds_is_not_silence() -> None:
    run = Run()
    run.rounds(50)
    run.cluster.owner = lambda cluster: cluster.supply(TWO)  # its last answer is never looked for
    run.rounds(1)
    run.cluster.owner = lambda cluster: cluster.take_over()
    run.cluster.settle(run.cluster.now + 60)
    run.rounds(1)
    assert run.cluster.root.away == frozenset()


def test_silence_goes_on_from_round_to_round() -> None:
    """Each round goes on without the device at once, so that none lasts as long as the limit."""
    run = Run()
    run.rounds(100)
    run.cluster.owner = lambda cluster: cluster.go_on()
    run.cut(TWO, 10.0)
    began = run.cluster.now
    while TWO not in run.cluster.root.away:
        assert max(run.rounds(1)) < 0.01
    assert 0.05 < run.cluster.now - began < 0.06


def test_a_device_that_can_be_taken_over_from_never_stalls_a_round() -> None:
    cluster = Cluster(PIECES, 2, recovery=TAKE_OVER, stall_timeout_s=0.5)
    cluster.run(RoundId(0, 0), 1)
    cluster.dead.add(ONE)
    over = cluster.now + 20
    cluster.root.begin(RoundId(0, 1), 1, bytes(408), cluster.now)
    while cluster.now < over:
        cluster.root.overdue(cluster.now)
        cluster.root.datagrams(cluster.now)
        deadline = cluster.root.deadline()
        assert deadline is not None and deadline > cluster.now
        cluster.now = deadline
    assert cluster.root.away == {ONE, TWO}  # nobody carries what they say


def test_without_anybody_to_take_over_a_silent_device_stalls_the_round() -> None:
    cluster = Cluster(PIECES, 2, stall_timeout_s=0.5)
    cluster.dead.add(ONE)
    with pytest.raises(DeviceStalled):
        cluster.run(RoundId(0, 0), 1)
    assert cluster.root.away == frozenset()


def test_an_away_device_whose_chunks_nobody_supplies_is_still_waited_for() -> None:
    """Three seconds without a word, then it answers the probe of the round that still waits."""
    run = Run()
    run.rounds(100)
    run.cluster.owner = lambda cluster: None
    run.cut(TWO, 3.0)
    assert 3.0 < run.rounds(1)[0] < 3.4
    assert run.cluster.root.statistics.chunks_supplied == 0

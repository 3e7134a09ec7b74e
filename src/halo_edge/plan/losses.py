"""How much longer a round takes for what is lost: an expectation, from each link's PLR.

A lost chunk is noticed when a later one of the same matrix comes, else after a gap, and where all
of a matrix is lost after the device's adaptive timeout; then it is asked for again, and here a
round trip later (docs/protocol.md). A round waits for its slowest device. Losses on different links
are independent, so what it waits for is the expected maximum of their delays: more than the maximum
of the expectations, less than their sum.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Final, NamedTuple

import numpy as np

from halo_edge.plan.link import OneWay
from halo_edge.plan.plan import Copies
from halo_edge.plan.timeline import Answer, Round, Timelines
from halo_edge.plan.workload import MAX_PAYLOAD

# Of the protocol's timers (sync/timing.py, which this room does not import).
GAP_S: Final = 0.0005
MIN_TIMEOUT_S: Final = 0.001
MIN_MARGIN_S: Final = 0.00025
VARIATIONS: Final = 4
COPIES_AGAIN: Final = 2
DATAGRAM_S: Final = 20e-6
"""The least that a copy of a chunk costs (sync/redundancy.py)."""


class Fates(NamedTuple):
    """Of a matrix of several chunks: the probabilities that nothing is lost, that something is and
    a later chunk comes, that the last is lost, and that all are."""

    whole: float
    early: float
    tail: float
    none: float

    @classmethod
    def of(cls, chunks: int, missing: float) -> Fates:
        """`missing`: the probability that a chunk is lost, in all its copies."""
        whole, none = (1 - missing) ** chunks, missing**chunks
        tail = missing - none
        return cls(whole, max(0.0, 1 - whole - none - tail), tail, none)


class Delay(NamedTuple):
    """With that probability a device's partial is whole so much later than if nothing is lost."""

    probability: float
    seconds: float


def mean_s(delays: Sequence[Delay]) -> float:
    return sum(delay.probability * delay.seconds for delay in delays)


class Losses:
    """Of a cluster's links."""

    def __init__(self, timelines: Timelines) -> None:
        self._timelines = timelines

    def missing(self, d: int, copies: Copies, tokens: int = 1) -> float:
        """The share of a worker's partial that is lost, or never computed as x was, at first."""
        workload, way = self._timelines.workload, self._timelines.ways[d]
        x = Fates.of(workload.x(tokens).datagrams, way.to.missing(copies.x))
        return 1 - x.whole * (1 - way.back.missing(copies.partial))

    def best_copies(self) -> tuple[Copies, ...]:
        """Of every device; the root, which needs none, has one."""
        return (Copies(), *(self.copies(d) for d in range(1, len(self._timelines.ways))))

    def copies(self, d: int) -> Copies:
        """How often chunks best travel on a worker's link: that which makes
        r n t + n p q^(r-1) T least, with t the time of a datagram, T that of a recovery, p and q
        the shares lost (sync/redundancy.py)."""
        timelines = self._timelines
        workload, way = timelines.workload, timelines.ways[d]
        link = timelines.cluster.devices[d].link
        x, partial = workload.x(1), workload.partial(1)
        sends_s = timelines.costs[0].send_s, timelines.costs[d].send_s
        recover_s = way.rtt_s + self._handling_s(d) + MIN_TIMEOUT_S
        ways = (
            (way.to, link.down, x, sends_s[0]),
            (way.back, link.up, partial, sends_s[1]),
        )
        best = []
        for lossy, rated, matrix, send_s in ways:
            each_s = max(DATAGRAM_S, send_s, matrix.nbytes / matrix.datagrams / rated.bytes_per_s)
            costs = [
                matrix.datagrams * (r * each_s + lossy.missing(r) * recover_s)
                for r in range(1, workload.max_copies + 1)
            ]
            best.append(1 + costs.index(min(costs)))
        return Copies(*best)

    def delays(
        self, d: int, round_: Round, copies: Copies, tokens: int, given_up: float
    ) -> list[Delay]:
        """Of a worker's partial. `given_up`: the share of losses, 0 ... 1, which the root does not
        wait for once it knows of them."""
        timelines, answer = self._timelines, round_.answers[d]
        way, workload = timelines.ways[d], timelines.workload
        x, partial = workload.x(tokens).datagrams, workload.partial(tokens).datagrams
        lost_x = Fates.of(_at_the_end(x, way.to, way.rtt_s), way.to.missing(copies.x))
        lost_partial = Fates.of(
            _at_the_end(partial, way.back, way.rtt_s), way.back.missing(copies.partial)
        )
        if lost_x.whole * lost_partial.whole == 1:
            return [Delay(1.0, 0.0)]
        handling_s = self._handling_s(d)
        again = 1 - (1 - way.to.loss**COPIES_AGAIN) * (1 - way.back.loss**COPIES_AGAIN)
        recover_s = way.rtt_s + handling_s
        # Asked in vain, it is asked again after the link's timeout.
        recover_s += again / (1 - again) * max(MIN_TIMEOUT_S, recover_s + MIN_MARGIN_S)
        # The root hears what a worker lacks when it has done its own part.
        deaf_s = round_.own_s - (answer.x_there_s + way.back.delay_s)
        for_x_s = recover_s + max(0.0, deaf_s)
        noticed_s = GAP_S if copies.x > 1 else 0.0
        after_x = (0.0, noticed_s + for_x_s, GAP_S + for_x_s, 0.0)
        margin_s = self._margin_s(answer, lost_x, after_x)
        after_x = (*after_x[:3], margin_s + answer.there_s + recover_s)
        noticed_s = GAP_S if copies.partial > 1 else 0.0
        after_partial = (0.0, noticed_s + recover_s, GAP_S + recover_s, margin_s + recover_s)
        known_x, known_partial = (0.0, 0.0, 0.0, margin_s), (0.0, noticed_s, GAP_S, margin_s)
        found = []
        for share, x_s, partial_s in (
            (1 - given_up, after_x, after_partial),
            (given_up, known_x, known_partial),
        ):
            if share:
                of_x = zip(lost_x, x_s, strict=True)
                of_partial = zip(lost_partial, partial_s, strict=True)
                for (p, a_s), (q, b_s) in product(of_x, of_partial):
                    if p * q:
                        found.append(Delay(share * p * q, a_s + b_s))
        return found

    def alone_s(self, d: int, copies: Copies) -> float:
        """What a worker's losses would cost a decoded token's round if it were the only one."""
        groups = [int(i == d) for i in range(len(self._timelines.ways))]
        round_ = self._timelines.round(groups, [copies] * len(groups), 1)
        return mean_s(self.delays(d, round_, copies, 1, 0.0))

    def _handling_s(self, d: int) -> float:
        """CPU time, at both ends, of asking for a chunk and sending it again."""
        total_s = 0.0
        for costs in (self._timelines.costs[0], self._timelines.costs[d]):
            total_s += costs.wake_s + costs.receive_s(1, 0) + costs.seal_s(1, 0)
            total_s += COPIES_AGAIN * costs.send_s
        return total_s

    def _margin_s(self, answer: Answer, lost_x: Fates, after_x: Sequence[float]) -> float:
        """How much longer than its usual time the root waits for an answer: four times the mean
        deviation (RFC 6298), which comes of x that is lost."""
        usual_s = sum(p * s for p, s in zip(lost_x, after_x, strict=True))
        deviation_s = sum(p * abs(s - usual_s) for p, s in zip(lost_x, after_x, strict=True))
        margin_s = usual_s + max(MIN_MARGIN_S, VARIATIONS * deviation_s)
        return max(margin_s, MIN_TIMEOUT_S - answer.there_s)


def _at_the_end(datagrams: int, way: OneWay, rtt_s: float) -> int:
    """The chunks of a matrix whose recovery is not over before the last has come."""
    each_s = max(DATAGRAM_S, MAX_PAYLOAD / way.bytes_per_s)
    return min(datagrams, 2 + int(rtt_s / each_s))


def expected_end_s(ends: Sequence[tuple[float, Sequence[Delay]]], at_least_s: float) -> float:
    """When the last of several is there, on average. Each: when it is without a delay, and its
    delays. For a maximum M of independent times of distributions F_d, all at least m:
    E[M] = m + integral from m of 1 - prod F_d(t) dt."""
    least_s = max([at_least_s, *(there_s for there_s, _ in ends)])
    risky = [(there_s, delays) for there_s, delays in ends if len(delays) > 1]
    late = {there_s + delay.seconds for there_s, delays in risky for delay in delays}
    times = [least_s, *sorted(at_s for at_s in late if at_s > least_s)]
    if len(times) == 1:
        return least_s
    all_by = np.ones(len(times))
    for there_s, delays in risky:
        late_s = np.array([there_s + d.seconds for d in delays])
        order = np.argsort(late_s)
        by = np.cumsum(np.array([d.probability for d in delays])[order])
        reached = np.searchsorted(late_s[order], times, side="right")
        all_by *= np.where(reached > 0, by[np.maximum(reached - 1, 0)], 0.0)
    return least_s + float(np.sum(np.diff(times) * (1 - all_by[:-1])))

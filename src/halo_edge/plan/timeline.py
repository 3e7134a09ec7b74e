"""One round of a plan when nothing is lost: what each device does, and when.

The same steps in the same order as a real round has, each lasting what a device's profile says:
the root encodes x, seals and sends it, and computes its own part; each worker is woken, takes x in,
computes, seals and sends; the root takes the partials in as they come. Where devices share a thing
(the root's thread and link, cores, a forwarder), they wait for each other.

Losses are `losses.py`'s business, and what a CPU quota or storage adds `step.py`'s.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from halo_edge.plan.costs import Costs
from halo_edge.plan.device import Cluster
from halo_edge.plan.link import OneWay
from halo_edge.plan.plan import Copies
from halo_edge.plan.workload import Matrix, Workload

# Chunks under way to one device, and to all together (cluster/udp.py, docs/protocol.md).
MIN_WINDOW_CHUNKS: Final = 4
WINDOW_CHUNKS: Final = 64
SHARED_WINDOW_CHUNKS: Final = 1820


@dataclass(frozen=True)
class Answer:
    """A worker's part of a round, in seconds after the round began: x has come; the first and the
    last chunk of its partial are at the root. `compute_s`: how long its FFN takes."""

    x_there_s: float
    first_s: float
    there_s: float
    compute_s: float


@dataclass(frozen=True)
class Round:
    """Seconds after attention was done, when the round begins. `scattered_s`: x is sent; `own_s`:
    the root has computed its own part, which takes `own_compute_s`; `end_s`: all partials are taken
    in and added. `answers`: by worker. `busy_s`: each device's CPU time."""

    scattered_s: float
    own_s: float
    own_compute_s: float
    end_s: float
    answers: Mapping[int, Answer]
    busy_s: tuple[float, ...]


class Way(NamedTuple):
    """Between the root and a worker: `to` it and `back`. Rates are the lower of both links'."""

    to: OneWay
    back: OneWay

    @property
    def rtt_s(self) -> float:
        return self.to.delay_s + self.back.delay_s


@dataclass
class _Cores:
    """When each of some cores is free."""

    free_s: list[float] = field(default_factory=lambda: [0.0])

    def run(self, at_s: float, takes_s: float) -> float:
        """On the core that is free first. Returns when it is done."""
        end_s = max(self.free_s[0], at_s) + takes_s
        heapq.heapreplace(self.free_s, end_s)
        return end_s


class Timelines:
    """Of all plans for a cluster and a workload."""

    def __init__(self, cluster: Cluster, workload: Workload) -> None:
        self.cluster, self.workload = cluster, workload
        self.costs = [Costs(device.profile, workload.shape) for device in cluster.devices]
        root = cluster.root.link
        self.ways = [
            Way(root.up.then(device.link.down), device.link.up.then(root.down))
            for device in cluster.devices
        ]

    def compute_s(self, device: int, groups: float, tokens: int) -> float:
        """CPU time of so many groups of a layer, or of what takes as long."""
        shape = self.workload.shape
        neurons = round(groups * shape.group_size)
        if groups == shape.partition.n_groups:  # the last of which may be smaller
            neurons = shape.ffn
        return self.costs[device].ffn_s(neurons, tokens)

    def round(self, groups: Sequence[float], copies: Sequence[Copies], tokens: int) -> Round:
        """`groups[d]`: how many of a layer device d computes; a worker without any is not asked.
        `copies[d]`: how often chunks travel on its link."""
        own_s = self.compute_s(0, groups[0], tokens)
        workers = [d for d in range(1, len(groups)) if groups[d]]
        if not workers:  # nothing to encode, send or add
            return Round(0.0, own_s, own_s, own_s, {}, (own_s,) + (0.0,) * (len(groups) - 1))
        return _Layout(self, workers, groups, copies, tokens).round(own_s)


class _Layout:
    """One round being laid out."""

    def __init__(
        self,
        timelines: Timelines,
        workers: Sequence[int],
        groups: Sequence[float],
        copies: Sequence[Copies],
        tokens: int,
    ) -> None:
        self._timelines, self._workers = timelines, workers
        self._groups, self._copies, self._tokens = groups, copies, tokens
        self._devices = timelines.cluster.devices
        self._frame_s = timelines.cluster.frame_s
        self._root = timelines.costs[0]
        self._x, self._partial = timelines.workload.x(tokens), timelines.workload.partial(tokens)
        self._window = max(
            MIN_WINDOW_CHUNKS, min(WINDOW_CHUNKS, SHARED_WINDOW_CHUNKS // len(workers))
        )
        shared = {
            device.cores: _Cores([0.0] * device.cores.count)
            for device in self._devices
            if device.cores is not None
        }
        self._cores = {
            d: _Cores() if (cores := self._devices[d].cores) is None else shared[cores]
            for d in (0, *workers)
        }
        self._busy_s = [0.0] * len(groups)

    def round(self, own_compute_s: float) -> Round:
        root, tokens, cores = self._root, self._tokens, self._cores[0]
        # What of x does not fit into the window goes when the root has done its own part.
        early = self._x.part(self._window)
        late = self._x.part(self._x.datagrams - early.datagrams)
        sends = len(self._workers)
        if not late.datagrams:  # else it is too long to be worth copies
            sends = sum(self._copies[d].x for d in self._workers)
        sealed_s = root.encode_s(tokens) + root.round_s + root.seal_s(*early)
        scattered_s = cores.run(0.0, sealed_s + root.send_s * sends * early.datagrams)
        own_s = cores.run(scattered_s, own_compute_s)
        late_s = root.seal_s(*late) + root.send_s * len(self._workers) * late.datagrams
        free_s = cores.run(own_s, late_s) if late.datagrams else own_s
        arrivals = self._arrivals(early, sealed_s)
        if late.datagrams:
            arrivals = self._late_arrivals(arrivals, late, own_s, free_s)
        answers = {}
        for d in sorted(self._workers, key=lambda d: arrivals[d][1]):
            answers[d] = self._answer(d, *arrivals[d])
        answers = self._switched(answers)
        gathered_s, took_s = self._gather(answers, free_s)
        add_s = root.add_s(len(self._workers), tokens)
        self._busy_s[0] = scattered_s + own_compute_s + late_s + took_s + add_s
        end_s = gathered_s + add_s
        return Round(scattered_s, own_s, own_compute_s, end_s, answers, tuple(self._busy_s))

    def _arrivals(self, x: Matrix, sealed_s: float) -> dict[int, tuple[float, float]]:
        """When the first and the last chunk of x have come to each. The root sends the first to
        all, then the second to all, and so on."""
        pace_s = self._pace_s()
        found = {}
        for i, d in enumerate(self._workers, 1):
            rate = self._devices[d].link.down.bytes_per_s
            first_s = sealed_s + i * pace_s
            last_s = first_s + (x.datagrams - 1) * len(self._workers) * pace_s
            last_s = max(first_s + x.nbytes / rate, last_s + x.each_bytes / rate)
            delay_s = self._delay_s(d, x.datagrams)
            found[d] = (first_s + x.each_bytes / rate + delay_s, last_s + delay_s)
        return found

    def _late_arrivals(
        self, arrivals: Mapping[int, tuple[float, float]], x: Matrix, from_s: float, sent_s: float
    ) -> dict[int, tuple[float, float]]:
        """The same when the rest of x is sent from then to then, or as fast as rates let it, and a
        window in a round trip."""
        paced_s = x.datagrams * len(self._workers) * self._pace_s()
        windows = -(-x.datagrams // self._window)
        found = {}
        for d, (first_s, last_s) in arrivals.items():
            delay_s = self._delay_s(d, x.datagrams)
            linked_s = x.nbytes / self._devices[d].link.down.bytes_per_s
            linked_s += (windows - 1) * self._timelines.ways[d].rtt_s
            last_s = max(last_s, from_s + delay_s) + max(paced_s, linked_s)
            found[d] = (first_s, max(last_s, sent_s + delay_s))
        return found

    def _pace_s(self) -> float:
        """The least time between two datagrams that the root sends."""
        rate = self._devices[0].link.up.bytes_per_s
        return max(self._root.send_s, self._x.each_bytes / rate, self._frame_s)

    def _delay_s(self, d: int, datagrams: int) -> float:
        """Until the last of so many has come to a worker."""
        return self._timelines.ways[d].to.passes_s(datagrams)

    def _answer(self, d: int, x_first_s: float, x_last_s: float) -> Answer:
        """A worker's part, as far as its first window of chunks."""
        costs, x = self._timelines.costs[d], self._x
        first = self._partial.part(self._window)
        take_in_s = costs.receive_s(self._copies[d].x * x.datagrams, x.nbytes)
        # Woken by the first chunk; the others come meanwhile, or it sleeps between them.
        x_there_s = max(x_first_s + take_in_s, x_last_s + take_in_s / x.datagrams) + costs.wake_s
        compute_s = self._timelines.compute_s(d, self._groups[d], self._tokens)
        sealed_s = costs.serve_s + costs.seal_s(*first)
        sends_s = costs.send_s * first.datagrams
        works_s = take_in_s + costs.wake_s + compute_s + sealed_s + sends_s
        begins_s = max(x_there_s - take_in_s - costs.wake_s, 0.0)
        sent_s = self._cores[d].run(begins_s, works_s)
        rest = self._partial.part(self._partial.datagrams - first.datagrams)
        again = first.datagrams * (self._copies[d].partial - 1) if not rest.datagrams else 0
        self._busy_s[d] = works_s + costs.seal_s(*rest) + costs.send_s * (rest.datagrams + again)
        rate = self._devices[d].link.up.bytes_per_s
        first_s = sent_s - sends_s + costs.send_s
        last_s = max(first_s + first.nbytes / rate, sent_s + first.each_bytes / rate)
        delay_s = self._timelines.ways[d].back.passes_s(first.datagrams)
        return Answer(
            x_there_s, first_s + first.each_bytes / rate + delay_s, last_s + delay_s, compute_s
        )

    def _switched(self, answers: Mapping[int, Answer]) -> dict[int, Answer]:
        """The same after what all have to pass on their way to the root: its link, and the
        forwarder."""
        first = self._partial.part(self._window)
        one_s = max(first.each_bytes / self._devices[0].link.down.bytes_per_s, self._frame_s)
        found, passed_s = {}, 0.0
        for d, answer in sorted(answers.items(), key=lambda item: item[1].there_s):
            first_s = max(passed_s, answer.first_s) + one_s
            passed_s = max(passed_s, answer.first_s) + one_s * first.datagrams
            passed_s = max(passed_s, answer.there_s + one_s)
            found[d] = Answer(answer.x_there_s, first_s, passed_s, answer.compute_s)
        return found

    def _gather(self, answers: Mapping[int, Answer], free_s: float) -> tuple[float, float]:
        """When the root, which has nothing else to do from then on, has taken all in, one after
        another as they come; and how much of that is CPU time."""
        root, partial = self._root, self._partial
        first = partial.part(self._window)
        one_s = root.receive_s(*first)
        copied_s = root.receive_s(1, 0) * first.datagrams
        now, took_s = free_s, 0.0
        for d, answer in sorted(answers.items(), key=lambda item: item[1].first_s):
            whole = first.datagrams == partial.datagrams
            takes_s = one_s + copied_s * (self._copies[d].partial - 1 if whole else 0)
            wake_s = root.wake_s if answer.first_s > now else 0.0
            last_s = answer.there_s + wake_s + one_s / first.datagrams
            now = max(max(now, answer.first_s) + wake_s + takes_s, last_s)
            took_s += takes_s
        # Others may have the root's core when it could begin.
        now = max(now, self._cores[0].run(free_s, one_s))
        windows = -(-partial.datagrams // first.datagrams)
        if windows > 1:  # of all workers one, then of all the next, as each has to be asked for
            rest = partial.part(partial.datagrams - first.datagrams)
            rest_s = len(answers) * root.receive_s(*rest)
            pulls_s = max(self._pull_s(d, first) for d in answers)
            now += rest_s + (windows - 1) * pulls_s
            took_s += rest_s
        return now, took_s

    def _pull_s(self, d: int, window: Matrix) -> float:
        """From asking a worker for its next window of chunks until the first of them is there."""
        costs, root = self._timelines.costs[d], self._root
        asks_s = root.wake_s + root.seal_s(1, 0) + root.send_s + costs.wake_s
        answers_s = costs.receive_s(1, 0) + costs.seal_s(*window)
        return self._timelines.ways[d].rtt_s + asks_s + answers_s

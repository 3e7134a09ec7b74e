"""The FFN from the rounds of a cluster: scatter x, compute the own shard, gather the partials, add
them.

The root's side of the picture in DESIGN.md, and the ladder of what happens to a missing chunk:
`sync` asks for it again, `relaxing` goes on without it, `stand_in` computes it here. This file
only says who is asked when.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from halo_edge.cluster.links import RootLink
from halo_edge.cluster.relaxation import RelaxOptions, Spent
from halo_edge.cluster.relaxing import Filled, Relaxable, Relaxing
from halo_edge.cluster.stand_in import StandIn
from halo_edge.compute.ffn import FfnGraphs
from halo_edge.compute.partials import PartialSum
from halo_edge.compute.rows import Rows
from halo_edge.compute.wire import RowEncoder
from halo_edge.engine.trace import Activity, Tracer
from halo_edge.errors import HaloError
from halo_edge.sync.errors import DeviceStalled
from halo_edge.sync.ids import DeviceId, RoundId
from halo_edge.sync.peer import LinkReport, Overdue
from halo_edge.sync.root import RootRounds
from halo_edge.sync.transfer import chunks_of

# How often a waiting root looks whether a worker has left.
MEMBERSHIP_WAIT_S: Final = 0.05
# A device that has been silent for so long, and several of its answers' times, is computed for.
AWAY_AFTER_S: Final = 0.05
# Silent for so many times what its answers take, a device is computed for at once.
SILENT_ANSWERS: Final = 2.0
# A late partial is computed here if it is expected to take so many times longer to come: the
# estimate may be wrong, and computing keeps the root from hearing what comes.
STAND_IN_PAYS: Final = 1.5

_ENCODE_X: Final = Activity.ENCODE_X
_SEND_X: Final = Activity.SEND_X
_OWN_FFN: Final = Activity.OWN_FFN
_RECEIVE_PARTIALS: Final = Activity.RECEIVE_PARTIALS
_WAIT: Final = Activity.WAIT
_STAND_IN: Final = Activity.STAND_IN
_ADD_PARTIALS: Final = Activity.ADD_PARTIALS
_LEARN: Final = Activity.LEARN


class RoundsFfn:
    """A `Gather` (engine room) over a cluster.

    `x` encodes the step's x; `own` computes the root's shard into `ffn`, and `partials` adds what
    the workers sent. `workers` names the devices for messages; `lost` gives workers that have left
    the cluster. `tracer` is told where the rounds' time goes. `stand_in` computes what a worker
    owes; `relaxable` is None where there is no profile. How far either is used, `relax` says;
    before, rounds are strict and nobody stands in.
    """

    def __init__(
        self,
        rounds: RootRounds,
        link: RootLink,
        x: RowEncoder,
        own: FfnGraphs,
        ffn: Rows,
        partials: PartialSum,
        workers: Mapping[DeviceId, str],
        lost: Callable[[], str | None],
        tracer: Tracer,
        stand_in: StandIn,
        relaxable: Relaxable | None,
    ) -> None:
        self._rounds = rounds
        self._link = link
        self._own = own
        self._ffn = ffn
        self._workers = workers
        self._lost = lost
        self._tracer = tracer
        self._step = -1
        self._x = x
        self._partials = partials
        self._able_stand_in = stand_in
        self._relaxable = relaxable
        self._relaxing: Relaxing | None = None
        self._stand_in: StandIn | None = None
        self._filled = Filled()
        self._taken_over: Counter[int] = Counter()
        self._owing: set[DeviceId] = set()  # computed for in the last round
        self._silent: tuple[DeviceId, ...] = ()
        self._gone: frozenset[DeviceId] = frozenset()
        self._times_gone: Counter[int] = Counter()

    def ffn(self, layer: int, tokens: int) -> None:
        """See `Gather.ffn`. Raises `HaloError` when a worker stalls or has left, unless it can be
        stood in for."""
        tracer, counted = self._tracer, self._rounds.statistics
        relaxing = self._relaxing
        if layer == 0:
            self._step += 1
        tracer.begin_round()
        x = self._x.encode(tokens)
        tracer.lap(_ENCODE_X)
        now = time.monotonic()
        self._silent = self._silent_devices(now) if self._owing else ()
        self._owing.clear()
        self._rounds.begin(RoundId(self._step, layer), tokens, x, now)
        self._send(now)
        tracer.lap(_SEND_X)
        if not self._own.run(layer, tokens):
            self._ffn.clear(tokens)
        tracer.lap(_OWN_FFN)
        if relaxing is not None:
            relaxing.begin_round(layer, tokens)
        self._collect(layer, tokens)
        tracer.lap(_RECEIVE_PARTIALS)
        self._partials.add(tokens)
        tracer.lap(_ADD_PARTIALS)
        if relaxing is not None and relaxing.learn(self._rounds):
            tracer.lap(_LEARN)
        tracer.end_round(
            counted.wants_sent, counted.retransmissions, counted.bytes_sent + counted.bytes_received
        )

    def relax(self, options: RelaxOptions) -> None:
        """From the next step on. Raises `HaloError` for what takes a profile and has none."""
        if options.relaxes and self._relaxable is None:
            raise HaloError(
                "going on without chunks takes a profile, which says what that would cost; make "
                "one with `halo calibrate`, or be strict"
            )
        stands_in = options.take_over and options.recovery
        self._stand_in = self._able_stand_in if stands_in else None
        self._rounds.retune(
            max_copies=options.max_copies, away_after_s=AWAY_AFTER_S if stands_in else math.inf
        )
        self._relaxing = None
        if self._relaxable is not None and options.relaxes:
            self._relaxing = self._relaxable.relaxing(options, self._filled)

    def spent(self) -> Spent:
        """What the rounds needed so far beyond what came by itself."""
        counted, filled = self._rounds.statistics, self._filled
        return Spent(
            rounds=counted.rounds,
            chunks_recovered=counted.chunks_recovered,
            chunks_filled=filled.chunks,
            chunks_taken_over=sum(self._taken_over.values()),
            nats=filled.nats,
            filled_by_device=dict(filled.by_device),
            filled_by_layer=dict(filled.by_layer),
            nats_by_layer=dict(filled.nats_by_layer),
            taken_over_by_device=dict(self._taken_over),
            away=dict(self._times_gone),
        )

    def link_reports(self) -> dict[DeviceId, LinkReport]:
        """How the links to the workers are at present."""
        return {device: self._rounds.link(device) for device in self._workers}

    def _send(self, now: float) -> None:
        for destinations, datagram in self._rounds.datagrams(now):
            self._link.send(destinations, datagram)

    def _receive(self, now: float) -> bool:
        """Take in what has come; whether the round is complete."""
        rounds, link = self._rounds, self._link
        while (datagram := link.receive()) is not None:
            rounds.receive(datagram, now)
            if rounds.complete:  # the next round ignores whatever else there is
                break
        return rounds.complete

    def _collect(self, layer: int, tokens: int) -> None:
        """Receive until the round is complete, sending what the rounds want sent, going on without
        chunks where that is allowed, and computing here what will not come in time."""
        rounds, link, tracer = self._rounds, self._link, self._tracer
        try:
            while True:
                now = time.monotonic()
                if self._receive(now):
                    return
                overdue = rounds.overdue(now)
                if overdue and self._fill(overdue, tokens):
                    return
                self._send(now)
                late = self._to_compute(overdue, tokens)
                if late is not None:
                    tracer.lap(_RECEIVE_PARTIALS)
                    self._compute(late, layer, tokens)
                    tracer.lap(_STAND_IN)
                    if rounds.complete:
                        return
                    continue
                self._check_membership()
                deadline = rounds.deadline()
                wait_s = MEMBERSHIP_WAIT_S
                if deadline is not None:
                    wait_s = min(wait_s, deadline - time.monotonic())
                if wait_s > 0:
                    tracer.lap(_RECEIVE_PARTIALS)
                    link.wait(wait_s)
                    tracer.lap(_WAIT)
        except DeviceStalled as stalled:
            raise HaloError(
                f"worker {self._workers[stalled.device]} has not answered for "
                f"{stalled.silent_s:.0f} s; see whether it runs and can be reached"
            ) from None

    def _fill(self, overdue: Sequence[Overdue], tokens: int) -> bool:
        """Whether the round is complete after going on without what may be gone without."""
        rounds = self._rounds
        if self._relaxing is not None:
            waited_for = sum(1 for device in self._workers if rounds.missing(device))
            # While anybody else still computes, going on without the late ones saves nothing.
            if len(overdue) == waited_for:
                self._relaxing.fill(rounds, overdue, lambda device: self._cost_s(device, tokens))
        return rounds.complete

    def _to_compute(self, overdue: Sequence[Overdue], tokens: int) -> DeviceId | None:
        """A device whose partial is better computed here than waited for."""
        if self._stand_in is None:
            return None
        rounds = self._rounds
        away = rounds.away
        if away != self._gone:
            for device in away - self._gone:
                self._times_gone[device] += 1
                self._stand_in.prefetch(device)
            self._gone = away
        for device in away:
            if rounds.missing(device):
                return device
        for device in self._silent:
            if rounds.missing(device):
                return device
        for late in overdue:
            worth_s = STAND_IN_PAYS * self._cost_s(late.device, tokens)
            if rounds.missing(late.device) and late.expected_s > worth_s:
                return late.device
        return None

    def _silent_devices(self, now: float) -> tuple[DeviceId, ...]:
        """Those that owe the last round's partial and have been silent for longer than answers
        take: a burst of loss, probably, in which they need not be waited for in every round."""
        rounds, silent = self._rounds, []
        for device in self._owing:
            answer_s = rounds.link(device).answer_s
            if answer_s is not None and rounds.silent_s(device, now) > SILENT_ANSWERS * answer_s:
                silent.append(device)
        return tuple(silent)

    def _cost_s(self, device: DeviceId, tokens: int) -> float:
        """How long it takes to compute a device's partial here."""
        return math.inf if self._stand_in is None else self._stand_in.cost_s(device, tokens)

    def _compute(self, device: DeviceId, layer: int, tokens: int) -> None:
        """Put in what the device owes, unless it has come meanwhile."""
        assert self._stand_in is not None
        rounds = self._rounds
        partial = self._stand_in.compute(device, layer, tokens)
        if self._receive(time.monotonic()):
            return
        chunks, spans = chunks_of(rounds.missing(device)), rounds.partial_spans
        for chunk in chunks:
            start, stop = spans[chunk]
            rounds.supply(device, chunk, partial[start:stop])
        self._taken_over[device] += len(chunks)
        self._owing.add(device)

    def _check_membership(self) -> None:
        """Raises `HaloError` for a worker that has left, if nobody can stand in for it."""
        if self._stand_in is None and (worker := self._lost()) is not None:
            raise HaloError(
                f"worker {worker} left in the middle of a generation; "
                f"start it again, or go on without it"
            )

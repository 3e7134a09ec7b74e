"""The ladder of what happens to a missing chunk (DESIGN.md): who is asked when.

`sync` asks for it again, `relaxing` goes on without it, `stand_in` computes it here.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from halo_edge.cluster.links import RootLink
from halo_edge.cluster.relaxation import Place
from halo_edge.cluster.relaxing import Filled, Relaxing
from halo_edge.cluster.stand_in import StandIn
from halo_edge.engine.trace import Activity, Tracer
from halo_edge.errors import HaloError
from halo_edge.sync.errors import DeviceStalled
from halo_edge.sync.ids import DeviceId
from halo_edge.sync.peer import Overdue
from halo_edge.sync.root import RootRounds
from halo_edge.sync.transfer import chunks_of

# How often a waiting root looks whether a worker has left.
MEMBERSHIP_WAIT_S: Final = 0.05
# Silent for so many times what its answers take, a device is computed for at once.
SILENT_ANSWERS: Final = 2.0
# A late partial is computed here if it is expected to take so many times longer to come: the
# estimate may be wrong, and computing keeps the root from hearing what comes.
STAND_IN_PAYS: Final = 1.5

_RECEIVE_PARTIALS: Final = Activity.RECEIVE_PARTIALS
_WAIT: Final = Activity.WAIT
_STAND_IN: Final = Activity.STAND_IN


@dataclass
class Counts:
    """What the ladder did, since the session began."""

    filled: Filled = field(default_factory=Filled)
    taken_over: Counter[int] = field(default_factory=Counter)  # chunks, by device
    taken_over_at: Counter[Place] = field(default_factory=Counter)
    away: Counter[int] = field(default_factory=Counter)  # how often, by device


class RoundPausedError(HaloError):
    """A round waits for what nobody but a worker that is gone can compute."""

    def __init__(self, worker: str, why: str) -> None:
        super().__init__(why)
        self.worker = worker


class Ladder:
    """Of one epoch's rounds, under one set of options.

    `workers` names the devices for messages; `lost` gives a worker that has left the cluster.
    `stand_in`, `relaxing`: None where they are not to be used.
    """

    def __init__(
        self,
        rounds: RootRounds,
        link: RootLink,
        workers: Mapping[DeviceId, str],
        stand_in: StandIn | None,
        relaxing: Relaxing | None,
        lost: Callable[[], str | None],
        tracer: Tracer,
        counts: Counts,
    ) -> None:
        self._rounds = rounds
        self._link = link
        self._workers = workers
        self._stand_in = stand_in
        self._relaxing = relaxing
        self._lost = lost
        self._tracer = tracer
        self._counts = counts
        self._owing: set[DeviceId] = set()  # computed for in the last round
        self._silent: tuple[DeviceId, ...] = ()
        self._gone: frozenset[DeviceId] = frozenset()

    def begin_round(self, now: float) -> None:
        """Call it before the rounds' `begin`."""
        self._silent = self._silent_devices(now) if self._owing else ()
        self._owing.clear()

    def send(self, now: float) -> None:
        """What the rounds want sent."""
        for destinations, datagram in self._rounds.datagrams(now):
            self._link.send(destinations, datagram)

    def collect(self, layer: int, tokens: int) -> None:
        """Receive until the round is complete, sending what the rounds want sent, going on without
        chunks where that is allowed, and computing here what will not come in time.

        Raises `RoundPausedError` when a worker stalls or has left, unless it can be stood in for.
        It may be called again then, for the same round.
        """
        rounds, link, tracer = self._rounds, self._link, self._tracer
        overdue: Sequence[Overdue] = ()
        look_at_s = 0.0
        try:
            while True:
                now = time.monotonic()
                if self._receive(now):
                    return
                # Mostly what has come is the next of the chunks that are awaited, and no more.
                if overdue or rounds.unsettled or now >= look_at_s:
                    overdue = rounds.overdue(now)
                    if overdue and self._fill(overdue, tokens):
                        return
                    self.send(now)
                    late = self._to_compute(overdue, tokens)
                    if late is not None:
                        tracer.lap(_RECEIVE_PARTIALS)
                        self._compute(late, layer, tokens)
                        tracer.lap(_STAND_IN)
                        if rounds.complete:
                            return
                        look_at_s = 0.0
                        continue
                    self._check_membership()
                look_at_s = now + MEMBERSHIP_WAIT_S
                deadline = rounds.deadline()
                if deadline is not None and deadline < look_at_s:
                    look_at_s = deadline
                wait_s = look_at_s - time.monotonic()
                if wait_s > 0:
                    tracer.lap(_RECEIVE_PARTIALS)
                    link.wait(wait_s)
                    tracer.lap(_WAIT)
        except DeviceStalled as stalled:
            worker = self._workers[stalled.device]
            raise RoundPausedError(
                worker,
                f"worker {worker} has not answered for {stalled.silent_s:.0f} s; see whether it "
                f"runs and can be reached",
            ) from None

    def _receive(self, now: float) -> bool:
        """Take in what has come; whether the round is complete."""
        rounds, link = self._rounds, self._link
        while (datagram := link.receive()) is not None:
            rounds.receive(datagram, now)
            if rounds.complete:  # the next round ignores whatever else there is
                break
        return rounds.complete

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
                self._counts.away[device] += 1
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
        self._counts.taken_over[device] += len(chunks)
        self._counts.taken_over_at[device, layer] += len(chunks)
        self._owing.add(device)

    def _check_membership(self) -> None:
        """Raises `RoundPausedError` for a worker that has left, if nobody can stand in for it."""
        if self._stand_in is None and (worker := self._lost()) is not None:
            raise RoundPausedError(
                worker,
                f"worker {worker} left in the middle of a generation; "
                f"start it again, or go on without it",
            )

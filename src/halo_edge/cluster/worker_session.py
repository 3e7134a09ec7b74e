"""A worker's session with one root: rounds in, partials out, one epoch after another."""

from __future__ import annotations

import select
import time
from typing import Final

from halo_edge.cluster.freed_memory import give_memory_back
from halo_edge.cluster.held_tiles import HeldTiles
from halo_edge.cluster.links import WorkerLink
from halo_edge.cluster.messages import WORKER_SPANS, TraceReply
from halo_edge.cluster.speed import DecodeTimes
from halo_edge.cluster.worker_part import WorkerPart
from halo_edge.engine.trace import Activity, Recorder, Tracer
from halo_edge.sync.datagram import epoch_of

# Assigned, but the root does not begin: look after the control plane now and then.
IDLE_WAIT_S: Final = 1.0

_RECEIVE_X: Final = Activity.RECEIVE_X
_FFN: Final = Activity.FFN
_SEND_PARTIAL: Final = Activity.SEND_PARTIAL


class Session:
    """`held`: the tiles of its parts, and replicas. `trace`: record where the time goes."""

    def __init__(
        self, session: str, held: HeldTiles, part: WorkerPart, link: WorkerLink, *, trace: bool
    ) -> None:
        self.id = session
        self.held = held
        self._part = part
        self._next: WorkerPart | None = None
        self._link = link
        self._tracer = Recorder(WORKER_SPANS) if trace else Tracer()
        self._begun_ns = 0
        self._seen = 0  # rounds of this part

    @property
    def newest_epoch(self) -> int:
        """Of those it is ready for."""
        return self._newest.epoch

    @property
    def decode(self) -> DecodeTimes:
        """In the epoch in use. Any thread may ask."""
        return self._part.clock.times

    def be_ready_for(self, part: WorkerPart) -> None:
        """Go over to it when the root does: with the first datagram of its epoch."""
        if self._next is not None:  # the root has made another plan since
            self._next.close()
        self._next = part

    @property
    def in_rounds(self) -> bool:
        """Whether the root has gone over to the newest epoch: then all others are ready for it.
        Any thread may ask."""
        return self._next is None and self._part.rounds.statistics.rounds > 0

    @property
    def in_use(self) -> frozenset[str]:
        """The tiles of its parts. Any thread may ask."""
        return frozenset().union(*(part.tiles for part in self._open_parts()))

    @property
    def memory_bytes(self) -> int:
        """What its parts and replicas take. Any thread may ask."""
        return self.held.nbytes() + sum(part.pool_bytes for part in self._open_parts())

    @property
    def replica_bytes(self) -> int:
        """What of the replicas that it is to hold is in memory. Any thread may ask."""
        return self.held.nbytes(self._newest.replicas)

    @property
    def on_disk(self) -> frozenset[str]:
        """The tiles that others may have from it. Any thread may ask."""
        return self._part.on_disk | self._newest.on_disk

    def pause(self) -> None:
        """Let the graphs go; answer no round until the root comes with another epoch."""
        for part in (self._part, self._next):
            if part is not None:
                part.close()
        self._next = None

    def let_go(self) -> int:
        """All weights, which stay on disk; the bytes of memory that they took."""
        nbytes = self.memory_bytes
        self.pause()
        self.held.keep(frozenset())
        give_memory_back()
        return nbytes

    def fill_piece(self, start: int, stop: int) -> bytes:
        """Of the newest epoch's fill. Any thread may ask. Raises `HaloError` if there is none."""
        return self._newest.fill.piece(start, stop)

    def serve(self, wake_fd: int) -> None:
        """Answer rounds until `wake_fd` becomes readable."""
        link, tracer = self._link, self._tracer
        sources = (link.fileno(), wake_fd)
        while True:
            rounds = self._part.rounds
            deadline = rounds.deadline()
            now = time.monotonic()
            wait_s = IDLE_WAIT_S if deadline is None else max(0.0, deadline - now)
            if self._part.closed:
                wait_s = IDLE_WAIT_S
            elif rounds.ready() is not None:  # its x came while the round before was computed
                wait_s = 0.0
            # Exact to the microsecond, where poll and epoll count milliseconds.
            if wake_fd in select.select(sources, (), (), wait_s)[0]:
                return
            woken_ns = tracer.now()
            # All that has come, and only then to work: after a pause there is a backlog of
            # rounds, of which only the newest is not over.
            now = self._drain()
            part, rounds = self._part, self._part.rounds
            counted = rounds.statistics
            request = None if part.closed else rounds.ready()
            if counted.rounds != self._seen:  # the first of a round's x
                self._begun_ns, self._seen = woken_ns, counted.rounds
            if request is not None:
                tracer.step, tracer.layer, _ = request.id
                tracer.tokens = request.tokens
                tracer.start(self._begun_ns)
                tracer.begin_round()
                tracer.lap(_RECEIVE_X)
                answer = part.compute(request.id.layer, request.tokens)
                tracer.lap(_FFN)
                now = self._drain()  # before the answer: see WorkerRounds.answer
                rounds.answer(request.id, answer, now)
            for datagram in rounds.datagrams(now):
                link.send(datagram)
            if request is not None:
                tracer.lap(_SEND_PARTIAL)
                tracer.end_round(
                    counted.wants_sent,
                    counted.retransmissions,
                    counted.bytes_sent + counted.bytes_received,
                )

    def trace(self) -> TraceReply:
        """What was recorded. Any thread may ask."""
        return TraceReply(self.id, self._tracer.data(), self._tracer.dropped)

    def close(self) -> None:
        self._link.close()
        for part in (self._part, self._next):
            if part is not None:
                part.close()

    def _open_parts(self) -> list[WorkerPart]:
        parts = (self._part, self._next)
        return [part for part in parts if part is not None and not part.closed]

    @property
    def _newest(self) -> WorkerPart:
        return self._next or self._part

    def _drain(self) -> float:
        """Take in everything that has come; the time."""
        receive = self._link.receive
        now = time.monotonic()
        while (datagram := receive()) is not None:
            if self._next is not None and epoch_of(datagram) == self._next.epoch:
                self._receive_next(self._next, datagram, now)
            elif not self._part.closed:
                self._part.rounds.receive(datagram, now)
        return now

    def _receive_next(self, part: WorkerPart, datagram: memoryview, now: float) -> None:
        """Anybody can write an epoch into a header: only what opens says that the root is there."""
        part.rounds.receive(datagram, now)
        if part.rounds.statistics.rounds:
            part.rounds.follow(self._part.rounds)
            self._part.close()
            self._part, self._next, self._seen = part, None, 0
            self.held.keep(part.tiles | part.replicas)

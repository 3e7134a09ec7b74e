"""A worker: waits for an assignment, then answers rounds until its root is gone.

One thread does everything (receive, compute, send), so a round costs no hand-over; Zenoh's own
threads only bring events.
"""

from __future__ import annotations

import os
import re
import select
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from halo_edge import __version__
from halo_edge.cluster import control, tcp, udp
from halo_edge.cluster.addresses import own_addresses
from halo_edge.cluster.code_pages import drop_code_pages
from halo_edge.cluster.fill_compute import HeldFill
from halo_edge.cluster.links import WorkerLink
from halo_edge.cluster.messages import (
    CONTROL_VERSION,
    WORKER_SPANS,
    Assignment,
    AssignmentReply,
    FillPiece,
    TraceReply,
    Transport,
    WorkerInfo,
)
from halo_edge.cluster.shard_cache import ShardCache
from halo_edge.cluster.worker_control import Assigned, RootGone, WorkerControl
from halo_edge.cluster.worker_shards import load_fill, load_shards
from halo_edge.compute.ffn import FfnGraphs, FfnWeights
from halo_edge.compute.runtime import Runtime
from halo_edge.compute.wire import WireCodec
from halo_edge.engine.trace import Activity, Recorder, Tracer
from halo_edge.errors import HaloError
from halo_edge.sync.ids import DeviceId
from halo_edge.sync.layout import RoundLayout
from halo_edge.sync.timing import Recovery
from halo_edge.sync.worker import WorkerRounds

# Assigned, but the root does not begin: look after the control plane now and then.
IDLE_WAIT_S: Final = 1.0

_RECEIVE_X: Final = Activity.RECEIVE_X
_FFN: Final = Activity.FFN
_SEND_PARTIAL: Final = Activity.SEND_PARTIAL


@dataclass(frozen=True)
class WorkerOptions:
    """`address`: where rounds are received (0.0.0.0: everywhere); `port`: 0 for any."""

    control: control.ControlOptions
    name: str = ""
    address: str = "0.0.0.0"
    port: int = 0
    threads: int = 1


class Worker:
    """A worker process's one object. Raises `HaloError` where a port is taken."""

    def __init__(
        self, options: WorkerOptions, cache: ShardCache, tell: Callable[[str], None]
    ) -> None:
        """`tell` is given a line for the user now and then."""
        self._options = options
        self._cache = cache
        self._tell = tell
        self._udp = udp.bind(options.address, options.port)
        self.port: int = self._udp.getsockname()[1]
        try:
            self._tcp = tcp.listen(options.address, self.port)
        except HaloError:
            self._udp.close()
            raise
        self.id = options.name or _unique_name()
        self._session: Session | None = None
        try:
            opened = control.open_control(options.control)
            self._control = WorkerControl(
                opened, options.control.cluster, self.describe, self.trace, self.fill
            )
        except HaloError:
            self._udp.close()
            self._tcp.close()
            raise
        drop_code_pages()

    def describe(self) -> WorkerInfo:
        pages, page_bytes = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
        return WorkerInfo(
            control_version=CONTROL_VERSION,
            version=__version__,
            worker=self.id,
            host=socket.gethostname(),
            addresses=own_addresses(self._options.address),
            port=self.port,
            cores=os.cpu_count() or 1,
            threads=self._options.threads,
            memory_bytes=pages * page_bytes,
            busy=self._session is not None,
        )

    def trace(self) -> TraceReply:
        """What the session recorded so far, if it is to. Any thread may ask."""
        session = self._session
        return session.trace() if session is not None else TraceReply()

    def fill(self, wanted: FillPiece) -> bytes:
        """A piece of the session's fill. Any thread may ask. Raises `HaloError` for another's."""
        session = self._session
        if session is None or session.id != wanted.session:
            raise HaloError("this worker has another root by now")
        return session.fill.piece(wanted.start, wanted.stop)

    def run(self) -> None:
        """Serve one root after another, until KeyboardInterrupt or SystemExit."""
        try:
            while True:
                if self._session is None:
                    select.select((self._control.wake_fd,), (), ())
                else:
                    self._session.serve(self._control.wake_fd)
                while (event := self._control.next_event()) is not None:
                    self._handle(event)
        finally:
            self._end_session()
            self._control.close()
            self._udp.close()
            self._tcp.close()

    def _handle(self, event: Assigned | RootGone) -> None:
        current = self._session
        if isinstance(event, RootGone):
            if current is not None and current.id == event.session:
                self._end_session()
                self._tell("the root is gone; waiting for another")
            return
        assignment = event.assignment
        if current is not None and current.id != assignment.session:
            error = f"worker {self.id} is busy with another root's session"
            event.reply(AssignmentReply(error=error))
            return
        try:
            self._end_session()
            event.reply(self._begin_session(assignment))
        except (HaloError, ValueError) as error:
            event.reply(AssignmentReply(error=f"worker {self.id}: {error}"))
            self._tell(str(error))

    def _begin_session(self, assignment: Assignment) -> AssignmentReply:
        fetched, cached = self._cache.fetched_bytes, self._cache.cached_bytes
        fetch, runtime = self._control.fetch_shard, Runtime(self._options.threads)
        weights = load_shards(assignment, self._cache, fetch)
        fill = load_fill(assignment, weights, runtime, self._cache, fetch)
        root = (assignment.root_address, assignment.root_port)
        link: WorkerLink
        if assignment.transport is Transport.UDP:
            link = udp.UdpWorkerLink(self._udp, root)
        else:
            link = tcp.TcpWorkerLink(self._tcp, assignment.root_address)
        self._session = Session(assignment, weights, link, runtime, fill)
        self._control.watch_root(assignment.session)
        drop_code_pages()
        reply = AssignmentReply(
            fetched_bytes=self._cache.fetched_bytes - fetched,
            cached_bytes=self._cache.cached_bytes - cached,
        )
        self._tell(
            f"assigned {sum(s is not None for s in assignment.shards)} layers' shards: "
            f"{reply.fetched_bytes / 1e6:.1f} MB fetched, "
            f"{reply.cached_bytes / 1e6:.1f} MB on disk already"
        )
        return reply

    def _end_session(self) -> None:
        if self._session is not None:
            self._control.unwatch()
            self._session.close()
            self._session = None


class Session:
    """A worker's part in one root's session: rounds in, partials out."""

    def __init__(
        self,
        assignment: Assignment,
        weights: list[FfnWeights | None],
        link: WorkerLink,
        runtime: Runtime,
        fill: HeldFill,
    ) -> None:
        x_codec = WireCodec(assignment.x_wire, assignment.width)
        partial_codec = WireCodec(assignment.partial_wire, assignment.width)
        layout = RoundLayout(
            n_layers=len(assignment.shards),
            max_tokens=assignment.max_tokens,
            x_row_bytes=x_codec.row_bytes,
            x_block_bytes=x_codec.block_bytes,
            partial_row_bytes=partial_codec.row_bytes,
            partial_block_bytes=partial_codec.block_bytes,
            max_payload=assignment.max_payload,
            window=assignment.window,
        )
        self.id = assignment.session
        self.fill = fill
        self._tracer = Recorder(WORKER_SPANS) if assignment.trace else Tracer()
        self._begun_ns = 0
        self._link = link
        self._rounds = WorkerRounds(
            assignment.key,
            layout,
            DeviceId(assignment.device),
            epoch=assignment.epoch,
            recovery=Recovery(reliable=assignment.transport is Transport.TCP),
        )
        self._partial_row_bytes = partial_codec.row_bytes
        self._partial = memoryview(bytearray(layout.max_tokens * partial_codec.row_bytes))
        self._partial_rows = partial_codec.rows(self._partial)
        x = x_codec.rows(self._rounds.x_memory)
        self._graphs = FfnGraphs(runtime, weights, x, self._partial_rows)
        self._graphs.prepare()

    def serve(self, wake_fd: int) -> None:
        """Answer rounds until `wake_fd` becomes readable."""
        rounds, link = self._rounds, self._link
        tracer, counted = self._tracer, self._rounds.statistics
        sources = (link.fileno(), wake_fd)
        seen = counted.rounds
        while True:
            deadline = rounds.deadline()
            now = time.monotonic()
            wait_s = IDLE_WAIT_S if deadline is None else max(0.0, deadline - now)
            if rounds.ready() is not None:  # its x came while the round before was computed
                wait_s = 0.0
            # Exact to the microsecond, where poll and epoll count milliseconds.
            if wake_fd in select.select(sources, (), (), wait_s)[0]:
                return
            woken_ns = tracer.now()
            # All that has come, and only then to work: after a pause there is a backlog of
            # rounds, of which only the newest is not over.
            now = self._drain()
            request = rounds.ready()
            if counted.rounds != seen:  # the first of a round's x
                self._begun_ns, seen = woken_ns, counted.rounds
            if request is not None:
                tracer.step, tracer.layer, _ = request.id
                tracer.tokens = request.tokens
                tracer.start(self._begun_ns)
                tracer.begin_round()
                tracer.lap(_RECEIVE_X)
                answer = self._compute(request.id.layer, request.tokens)
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

    def _drain(self) -> float:
        """Take in everything that has come; the time."""
        rounds, receive = self._rounds, self._link.receive
        now = time.monotonic()
        while (datagram := receive()) is not None:
            rounds.receive(datagram, now)
        return now

    def _compute(self, layer: int, tokens: int) -> memoryview:
        """The encoded partial of the round whose x has come."""
        if not self._graphs.run(layer, tokens):
            self._partial_rows.clear(tokens)
        return self._partial[: tokens * self._partial_row_bytes]


def _unique_name() -> str:
    """The host's name, as far as it can be a part of a key, and something that no other has."""
    host = re.sub(r"[^A-Za-z0-9_.-]", "-", socket.gethostname())[:48]
    return f"{host or 'worker'}-{os.urandom(3).hex()}"

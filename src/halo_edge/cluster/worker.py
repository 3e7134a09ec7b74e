"""A worker: waits for an assignment, then answers rounds until its root is gone.

One thread does all of a round (receive, compute, send), so that it costs no hand-over. Zenoh's own
threads only bring events, and another loads what the next epoch takes.
"""

from __future__ import annotations

import os
import re
import select
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass

from halo_edge import __version__
from halo_edge.cluster import control, tcp, udp
from halo_edge.cluster.addresses import own_addresses
from halo_edge.cluster.benchmark_cache import Benchmarks
from halo_edge.cluster.code_pages import drop_code_pages
from halo_edge.cluster.freed_memory import give_memory_back
from halo_edge.cluster.held_tiles import HeldTiles
from halo_edge.cluster.limits import read_limits
from halo_edge.cluster.links import WorkerLink
from halo_edge.cluster.messages import (
    CONTROL_VERSION,
    Assignment,
    AssignmentReply,
    Coming,
    Decode,
    FillPiece,
    LeftOut,
    TraceReply,
    Transport,
    WorkerInfo,
)
from halo_edge.cluster.prefetcher import Prefetcher
from halo_edge.cluster.profile_message import BenchmarkReply, BenchmarkTask, reply_of
from halo_edge.cluster.replica_loader import ReplicaLoader
from halo_edge.cluster.round_sockets import listen
from halo_edge.cluster.shard_cache import ShardCache
from halo_edge.cluster.tile_source import TileSource
from halo_edge.cluster.worker_control import Assigned, Event, Loaded, RootGone, WorkerControl
from halo_edge.cluster.worker_memory import WorkerMemory
from halo_edge.cluster.worker_part import WorkerPart, load_part
from halo_edge.cluster.worker_session import Session
from halo_edge.errors import HaloError


@dataclass(frozen=True)
class WorkerOptions:
    """`address`: where rounds are received (0.0.0.0: everywhere); `port`: 0 for any.
    `memory_bytes`: that the worker may use; None: most of what there is."""

    control: control.ControlOptions
    name: str = ""
    address: str = "0.0.0.0"
    port: int = 0
    threads: int = 1
    memory_bytes: int | None = None


class Worker:
    """A worker process's one object. Raises `HaloError` where a port is taken."""

    def __init__(
        self, options: WorkerOptions, cache: ShardCache, tell: Callable[[str], None]
    ) -> None:
        """`tell` is given a line for the user now and then."""
        self._options = options
        self._cache = cache
        self._benchmarks = Benchmarks(cache.directory, options.threads)
        self._memory = WorkerMemory(options.memory_bytes)
        self._tell = tell
        self._udp, self._tcp = listen(options.address, options.port)
        self.port: int = self._udp.getsockname()[1]
        self.id = options.name or _unique_name()
        self._session: Session | None = None
        self._loading: threading.Thread | None = None
        self._next: Assigned | None = None
        self._replicas: ReplicaLoader | None = None
        self._prefetcher = Prefetcher(cache, self._fetch_shard)
        try:
            opened = control.open_control(options.control)
            self._control = WorkerControl(
                opened,
                options.control.cluster,
                self.describe,
                self.trace,
                self.fill,
                self.tile,
                self.benchmark,
                self.coming,
            )
        except HaloError:
            self._udp.close()
            self._tcp.close()
            raise
        drop_code_pages()

    def describe(self) -> WorkerInfo:
        session, limits = self._session, read_limits()
        decode = Decode()
        if session is not None:
            times = session.decode
            decode = Decode(
                times.neurons, times.rounds, times.cpu_s, times.wall_s, times.round_cpu_s
            )
        return WorkerInfo(
            control_version=CONTROL_VERSION,
            version=__version__,
            worker=self.id,
            host=socket.gethostname(),
            addresses=own_addresses(self._options.address),
            port=self.port,
            machine=limits.machine,
            cores=list(limits.cores),
            threads=self._options.threads,
            cpu_quota=limits.cpu_quota,
            memory_bytes=self._memory.limit_bytes(limits),
            session=session.id if session is not None else "",
            decode=decode,
            replica_bytes=session.replica_bytes if session is not None else 0,
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
        return session.fill_piece(wanted.start, wanted.stop)

    def tile(self, sha256: str, start: int, stop: int) -> bytes:
        """A piece of one that this worker has for its root. Any thread may ask. Raises `HaloError`
        for another."""
        session = self._session
        if session is None or sha256 not in session.on_disk:
            raise HaloError("this worker has no such tile")
        return self._cache.piece(sha256, start, stop)

    def benchmark(self, task: BenchmarkTask) -> BenchmarkReply:
        """For a model. Any thread may ask. Raises `HaloError` if it cannot be measured."""
        profile = self._benchmarks.of(task, self._memory.limit_bytes())
        return reply_of(profile, self._benchmarks.storage_bytes_per_s)

    def coming(self, coming: Coming) -> None:
        """What a root packs for this worker, unless that has another root. Any thread may call."""
        session = self._session
        if session is None or session.id == coming.session:
            self._prefetcher.take(coming)

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

    def _handle(self, event: Event) -> None:
        current = self._session
        if isinstance(event, RootGone):
            if current is not None and current.id == event.session:
                self._end_session()
                self._tell("the root is gone; waiting for another")
        elif isinstance(event, Loaded):
            self._go_on(event)
        elif isinstance(event, LeftOut):
            if current is not None and current.id == event.session:
                self._let_go(current, event.epoch)
        elif current is None:
            self._begin_session(event)
        elif current.id != event.assignment.session:
            error = f"worker {self.id} is busy with another root's session"
            event.reply(AssignmentReply(error=error))
        else:
            self._load_next(current, event)

    def _begin_session(self, event: Assigned) -> None:
        """With nobody waiting: load in this thread."""
        assignment = event.assignment
        link: WorkerLink
        try:
            held = HeldTiles(self._options.threads)
            source = self._source(assignment)
            part = self._load(assignment, held, source)
            root = (assignment.root_address, assignment.root_port)
            if assignment.transport is Transport.UDP:
                link = udp.UdpWorkerLink(self._udp, root)
            else:
                link = tcp.TcpWorkerLink(self._tcp, assignment.root_address)
        except (HaloError, ValueError) as error:
            event.reply(AssignmentReply(error=f"worker {self.id}: {error}"))
            self._tell(str(error))
            return
        self._session = Session(assignment.session, held, part, link, trace=assignment.trace)
        self._control.watch_root(assignment.session)
        drop_code_pages()
        event.reply(AssignmentReply())
        self._load_replicas(self._session, assignment, source)

    def _load_next(self, session: Session, event: Assigned) -> None:
        """While rounds of the epoch before go on. The newest that came meanwhile is the next."""
        assignment = event.assignment
        if assignment.epoch <= session.newest_epoch:
            error = f"worker {self.id} is past epoch {assignment.epoch} already"
            event.reply(AssignmentReply(error=error))
            return
        if self._loading is not None:
            if self._next is not None:
                self._next.reply(AssignmentReply(error=f"worker {self.id} got another plan since"))
            self._next = event
            return
        self._end_replicas()
        if not self._memory.make_room(session, assignment):
            self._tell(
                "no memory for two plans at once: out of the rounds until the next is loaded"
            )
        source = self._source(assignment)

        def load() -> None:
            try:
                loaded = Loaded(event, self._load(assignment, session.held, source), source)
            except (HaloError, ValueError) as error:
                loaded = Loaded(event, None, source, f"worker {self.id}: {error}")
            self._control.put(loaded)

        self._loading = threading.Thread(target=load, name="load", daemon=True)
        self._loading.start()

    def _go_on(self, loaded: Loaded) -> None:
        self._loading = None
        session, error, assignment = self._session, loaded.error, loaded.asked.assignment
        if session is None or session.id != assignment.session:
            error = f"worker {self.id} has another root by now"
        elif loaded.part is not None:
            session.be_ready_for(loaded.part)
        else:
            self._tell(error)
        loaded.asked.reply(AssignmentReply(error))
        waiting, self._next = self._next, None
        if waiting is not None:
            self._handle(waiting)
        elif session is not None and not error:
            self._load_replicas(session, assignment, loaded.source)

    def _let_go(self, session: Session, epoch: int) -> None:
        """Unless there is another plan since in which it has a part."""
        if self._loading is not None or session.newest_epoch >= epoch:
            return
        self._end_replicas()
        if nbytes := session.let_go():
            self._tell(
                f"left out of the plan: {nbytes / 1e6:.1f} MB of memory given back; what they held "
                f"stays on disk"
            )

    def _load_replicas(self, session: Session, assignment: Assignment, source: TileSource) -> None:
        """Beside the rounds, as far as memory allows."""
        self._replicas = ReplicaLoader(
            assignment,
            session.held,
            source,
            lambda: session.in_rounds,
            lambda nbytes: self._memory.has_room(session, nbytes),
            self._tell,
        )

    def _end_replicas(self) -> None:
        if self._replicas is not None:
            self._replicas.stop()
            self._replicas = None

    def _source(self, assignment: Assignment) -> TileSource:
        wire = self._control
        return TileSource(assignment, self._cache, wire.fetch_shard, wire.fetch_from_peer)

    def _fetch_shard(self, session: str, sha256: str, start: int, stop: int) -> bytes:
        return self._control.fetch_shard(session, sha256, start, stop)

    def _load(self, assignment: Assignment, held: HeldTiles, source: TileSource) -> WorkerPart:
        cache = self._cache
        ahead = self._prefetcher.end(assignment.session, assignment.epoch)
        fetched, cached = cache.fetched_bytes, cache.cached_bytes
        part = load_part(assignment, held, source, cache)
        self._tell(
            f"assigned {sum(map(bool, assignment.shards))} layers' shards: "
            f"{(ahead + cache.fetched_bytes - fetched) / 1e6:.1f} MB fetched"
            f"{f', {ahead / 1e6:.1f} of it while it was packed' if ahead else ''}"
            f"{f', {source.peer_bytes / 1e6:.1f} of it from peers' if source.peer_bytes else ''}, "
            f"{max(0, cache.cached_bytes - cached - ahead) / 1e6:.1f} MB on disk already"
        )
        return part

    def _end_session(self) -> None:
        self._end_replicas()
        if self._session is not None:
            self._control.unwatch()
            self._session.close()
            self._session = None
            give_memory_back()


def _unique_name() -> str:
    """The host's name, as far as it can be a part of a key, and something that no other has."""
    host = re.sub(r"[^A-Za-z0-9_.-]", "-", socket.gethostname())[:48]
    return f"{host or 'worker'}-{os.urandom(3).hex()}"

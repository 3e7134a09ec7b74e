"""A worker on the control plane: it announces itself, answers questions, and takes assignments.

Zenoh calls back from threads of its own; everything is handed to the worker's one thread through
`events`, and a pipe wakes that thread up.
"""

from __future__ import annotations

import contextlib
import os
import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

import zenoh

from halo_edge.cluster import control
from halo_edge.cluster.link_probe import PROBE_BYTES
from halo_edge.cluster.messages import (
    CONTROL_VERSION,
    Assignment,
    AssignmentReply,
    ClockReply,
    Coming,
    FillPiece,
    LeftOut,
    ShardPiece,
    TraceReply,
    WorkerInfo,
    decode,
    encode,
)
from halo_edge.cluster.packet_train import TrainTask, send_train
from halo_edge.cluster.profile_message import BenchmarkReply, BenchmarkTask
from halo_edge.cluster.replica_loader import lower_priority
from halo_edge.cluster.tile_source import TileSource
from halo_edge.cluster.worker_part import WorkerPart
from halo_edge.errors import HaloError

# For a piece of a shard: a megabyte, of a root that serves many workers over a slow link.
FETCH_TIMEOUT_S: Final = 60.0
# For one of a peer, which may be slow, or gone: the root has it too.
PEER_TIMEOUT_S: Final = 10.0
# Peers that wait for one; what is more is refused, and they ask the root.
MAX_PEERS_WAITING: Final = 4
# Before what was held for a plan is let go: who is left out may come back after a minute, and is
# not to load it again then.
LET_GO_AFTER_S: Final = 120.0
# Roots that wait for an answer while the worker loads another's shards.
MAX_WAITING: Final = 16


@dataclass(frozen=True)
class Assigned:
    """A root wants this worker. `reply` must be called once."""

    assignment: Assignment
    reply: Callable[[AssignmentReply], None]


@dataclass(frozen=True)
class Loaded:
    """What was `asked` for is there, from `source`, or could not be had: `part` is None, and
    `error` says why."""

    asked: Assigned
    part: WorkerPart | None
    source: TileSource
    error: str = ""


@dataclass(frozen=True)
class RootGone:
    """The root of `session` is no longer alive."""

    session: str


Event = Assigned | Loaded | RootGone | LeftOut
"""`LeftOut`: it has been for a while."""


class WorkerControl:
    """Announces the worker until `close`. `wake_fd` becomes readable when `next_event` has one."""

    def __init__(
        self,
        session: zenoh.Session,
        cluster: str,
        describe: Callable[[], WorkerInfo],
        trace: Callable[[], TraceReply],
        fill: Callable[[FillPiece], bytes],
        tile: Callable[[str, int, int], bytes],
        benchmark: Callable[[BenchmarkTask], BenchmarkReply],
        coming: Callable[[Coming], None],
    ) -> None:
        """`describe`, `trace`, `fill` and `coming` are called from Zenoh's threads, `tile` and
        `benchmark` from others; these and `fill` raise `HaloError` for what there is not."""
        self._session = session
        self._cluster = cluster
        self._describe = describe
        self._trace = trace
        self._fill = fill
        self._tile = tile
        self._benchmark = benchmark
        self._coming = coming
        self._tiles = ThreadPoolExecutor(1, "tiles", lower_priority)
        self._peers = threading.Semaphore(MAX_PEERS_WAITING)
        self._benchmarks = ThreadPoolExecutor(1, "benchmark")
        self._waiting = threading.Semaphore(MAX_WAITING)  # for benchmarks
        self._events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self.wake_fd, self._wake = os.pipe()
        os.set_blocking(self.wake_fd, False)
        os.set_blocking(self._wake, False)
        self._watch: zenoh.Subscriber[None] | None = None
        self._let_go: threading.Timer | None = None
        key = control.worker_key(cluster, describe().worker)
        self._declared = (
            session.declare_queryable(f"{key}/info", self._on_info),
            session.declare_subscriber(f"{key}/coming", self._on_coming),
            session.declare_queryable(f"{key}/assign", self._on_assign),
            session.declare_subscriber(f"{key}/left-out", self._on_left_out),
            session.declare_queryable(f"{key}/fill", self._on_fill),
            session.declare_queryable(f"{key}/tile/*", self._on_tile),
            session.declare_queryable(f"{key}/clock", self._on_clock),
            session.declare_queryable(f"{key}/echo", self._on_echo),
            session.declare_queryable(f"{key}/packet-train", self._on_train),
            session.declare_queryable(f"{key}/benchmark", self._on_benchmark),
            session.declare_queryable(f"{key}/trace", self._on_trace),
            session.liveliness().declare_token(key),
        )

    def next_event(self) -> Event | None:
        with contextlib.suppress(BlockingIOError):
            os.read(self.wake_fd, 64)
        with contextlib.suppress(queue.Empty):
            return self._events.get_nowait()
        return None

    def watch_root(self, session: str) -> None:
        """From now on, an event says when the root of `session` is gone (or already was)."""
        key = control.root_key(self._cluster, session)
        self.unwatch()

        def on_change(sample: zenoh.Sample) -> None:
            if sample.kind == zenoh.SampleKind.DELETE:
                self.put(RootGone(session))

        self._watch = self._session.liveliness().declare_subscriber(key, on_change)
        if not control.alive(self._session, key):
            self.put(RootGone(session))

    def unwatch(self) -> None:
        if self._watch is not None:
            self._watch.undeclare()  # type: ignore[no-untyped-call]
            self._watch = None

    def fetch_shard(self, session: str, sha256: str, start: int, stop: int) -> bytes:
        """Bytes `start:stop` of a packed shard. Raises `HaloError` when they do not come."""
        key = control.shard_key(self._cluster, session, sha256)
        return control.ask(self._session, key, encode(ShardPiece(start, stop)), FETCH_TIMEOUT_S)

    def fetch_from_peer(self, worker: str, sha256: str, start: int, stop: int) -> bytes:
        """The same from another worker."""
        key = f"{control.worker_key(self._cluster, worker)}/tile/{sha256}"
        return control.ask(self._session, key, encode(ShardPiece(start, stop)), PEER_TIMEOUT_S)

    def close(self) -> None:
        self.unwatch()
        if self._let_go is not None:
            self._let_go.cancel()
        self._tiles.shutdown(wait=False, cancel_futures=True)
        self._benchmarks.shutdown(wait=False, cancel_futures=True)
        self._session.close()  # type: ignore[no-untyped-call]
        os.close(self.wake_fd)
        os.close(self._wake)

    def put(self, event: Event) -> None:
        """Any thread may."""
        self._events.put(event)
        # A full pipe wakes as well; a closed one means that the worker is ending.
        with contextlib.suppress(OSError):
            os.write(self._wake, b"!")

    def _on_info(self, query: zenoh.Query) -> None:
        with query:
            query.reply(query.key_expr, encode(self._describe()))

    def _on_clock(self, query: zenoh.Query) -> None:
        now_ns = time.monotonic_ns()
        with query:
            query.reply(query.key_expr, encode(ClockReply(now_ns)))

    def _on_echo(self, query: zenoh.Query) -> None:
        with query:
            question = query.payload.to_bytes() if query.payload is not None else b""
            if len(question) > PROBE_BYTES:
                query.reply_err(b"that is too much to say again")
                return
            query.reply(query.key_expr, question)

    def _on_train(self, query: zenoh.Query) -> None:
        with query:
            try:
                question = query.payload.to_bytes() if query.payload is not None else b""
                send_train(decode(question, TrainTask, "a root"))
            except HaloError as error:
                query.reply_err(str(error).encode())
                return
            query.reply(query.key_expr, b"sent")

    def _on_fill(self, query: zenoh.Query) -> None:
        with query:
            try:
                question = query.payload.to_bytes() if query.payload is not None else b""
                piece = self._fill(decode(question, FillPiece, "a root"))
            except HaloError as error:
                query.reply_err(str(error).encode())
                return
            query.reply(query.key_expr, piece)

    def _on_tile(self, query: zenoh.Query) -> None:
        """Read from a disk: not in Zenoh's thread, and one after another."""

        def answer() -> None:
            with contextlib.suppress(zenoh.ZError), query:
                try:
                    question = query.payload.to_bytes() if query.payload is not None else b""
                    wanted = decode(question, ShardPiece, "a worker")
                    sha256 = str(query.key_expr).rsplit("/", 1)[-1]
                    piece = self._tile(sha256, wanted.start, wanted.stop)
                except HaloError as error:
                    query.reply_err(str(error).encode())
                else:
                    query.reply(query.key_expr, piece)
                finally:
                    self._peers.release()

        if not self._peers.acquire(blocking=False):
            with query:
                query.reply_err(b"too many want tiles of this worker at once")
            return
        with contextlib.suppress(RuntimeError):  # the worker is ending
            self._tiles.submit(answer)

    def _on_benchmark(self, query: zenoh.Query) -> None:
        """It takes a second: not in Zenoh's thread, which others wait for."""

        def answer() -> None:
            try:
                question = query.payload.to_bytes() if query.payload is not None else b""
                reply = self._benchmark(decode(question, BenchmarkTask, "a root"))
            except HaloError as error:
                reply = BenchmarkReply(error=str(error))
            finally:
                self._waiting.release()
            with contextlib.suppress(zenoh.ZError), query:
                query.reply(query.key_expr, encode(reply))

        if not self._waiting.acquire(blocking=False):
            with query:
                query.reply_err(b"too many want this worker's benchmark at once; try again later")
            return
        with contextlib.suppress(RuntimeError):  # the worker is ending
            self._benchmarks.submit(answer)

    def _on_trace(self, query: zenoh.Query) -> None:
        with query:
            query.reply(query.key_expr, encode(self._trace()))

    def _on_coming(self, sample: zenoh.Sample) -> None:
        # The assignment tells all of it again.
        with contextlib.suppress(HaloError):
            self._coming(decode(sample.payload.to_bytes(), Coming, "a root"))

    def _on_left_out(self, sample: zenoh.Sample) -> None:
        try:
            left_out = decode(sample.payload.to_bytes(), LeftOut, "a root")
        except HaloError:
            return
        if self._let_go is not None:  # the newest counts
            self._let_go.cancel()
        self._let_go = threading.Timer(LET_GO_AFTER_S, self.put, (left_out,))
        self._let_go.daemon = True
        self._let_go.start()

    def _on_assign(self, query: zenoh.Query) -> None:
        def reply(answer: AssignmentReply) -> None:
            # The root may be gone by now; then nobody waits for the answer.
            with contextlib.suppress(zenoh.ZError), query:
                query.reply(query.key_expr, encode(answer))

        try:
            data = query.payload.to_bytes() if query.payload is not None else b""
            assignment = decode(data, Assignment, "a root")
            if assignment.control_version != CONTROL_VERSION:
                raise HaloError("the root speaks another version")
            if self._events.qsize() >= MAX_WAITING:
                raise HaloError("too many roots want this worker at once; try again later")
        except HaloError as error:
            reply(AssignmentReply(error=str(error)))
            return
        self.put(Assigned(assignment, reply))

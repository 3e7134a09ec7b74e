"""Rounds of a root and one worker in one process, each as it is in a session, with what they cost.

The root goes through the ladder, the worker is a `Session` in a thread of its own: both sleep, are
woken by datagrams, and look whether there is anything to do, which pieces timed one after another
(`bench_rounds.py`) do not. Weights stream through the caches between two rounds.

Times are CPU time of each thread, beside the FFN: what live rounds tell of themselves
(`speed.py`). Where there are two cores each has its own, as two devices do; the kernel would put
both on one or not as it likes, and waking the other core is a good part of what a round takes.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from statistics import median
from typing import Final

import numpy as np
from numpy.typing import NDArray

from halo_edge.cluster import udp
from halo_edge.cluster.fill_compute import HeldFill
from halo_edge.cluster.held_tiles import HeldTiles
from halo_edge.cluster.ladder import Counts, Ladder
from halo_edge.cluster.messages import CONTROL_VERSION, Assignment, Transport
from halo_edge.cluster.profile_message import BenchmarkTask
from halo_edge.cluster.round_layout import round_layout
from halo_edge.cluster.speed import DecodeClock
from halo_edge.cluster.worker_part import WorkerPart
from halo_edge.cluster.worker_session import Session
from halo_edge.cluster.worker_shards import LoadedShards
from halo_edge.compute.ffn import FfnGraphs, LayerWeights
from halo_edge.compute.partials import PartialSum
from halo_edge.compute.rows import Rows
from halo_edge.compute.runtime import Runtime
from halo_edge.compute.wire import WireCodec
from halo_edge.engine.trace import Tracer
from halo_edge.sync.ids import DeviceId, RoundId
from halo_edge.sync.root import RootRounds
from halo_edge.sync.timing import Recovery

LOOPBACK: Final = "127.0.0.1"
WORKER: Final = DeviceId(1)
# The worker's thread has only its own round to end.
_END_TIMEOUT_S: Final = 2.0
_STALL_TIMEOUT_S: Final = 2.0


class BenchSession:
    """`round` makes one of one token. Use as a context manager, in one thread."""

    def __init__(
        self,
        runtime: Runtime,
        task: BenchmarkTask,
        x: NDArray[np.float32],
        out: NDArray[np.float32],
        own: Sequence[LayerWeights],
        workers: Sequence[LayerWeights],
    ) -> None:
        """`x`, `out`: f32[1 or more, H], of which the first row is used. `own`, `workers`: of each
        layer, the root's and the worker's weights; `runtime` is the root's, the worker has another.
        Raises `HaloError` where there is no loopback."""
        x_codec = WireCodec(task.x_wire, task.hidden)
        partial_codec = WireCodec(task.partial_wire, task.hidden)
        layout = round_layout(
            x_codec,
            partial_codec,
            n_layers=len(own),
            max_tokens=1,
            max_payload=udp.MAX_PAYLOAD,
            window=udp.MAX_WINDOW,
        )
        key = os.urandom(32)
        self._root_s: list[float] = []
        self._own = FfnGraphs(runtime, own, Rows.f32(x), Rows.f32(out))
        self._own.prepare()
        self._rounds = rounds = RootRounds(
            key, layout, [WORKER], epoch=0, recovery=Recovery(), stall_timeout_s=_STALL_TIMEOUT_S
        )
        self._datagrams = layout.x_grid().n_chunks(1) + layout.partial_grid().n_chunks(1)
        self._encoder = x_codec.encoder(x)
        memory = partial_codec.rows(rounds.partial_memory(WORKER))
        self._sum = PartialSum(runtime, [memory], Rows.f32(out))
        self._socket = udp.bind(LOOPBACK, 0)
        self._workers_socket = udp.bind(LOOPBACK, 0)
        address, port = self._socket.getsockname()
        self._clock = _Clock()
        session = _session(
            Assignment(
                control_version=CONTROL_VERSION,
                session="benchmark",
                key=key,
                device=WORKER,
                epoch=0,
                root_address=address,
                root_port=port,
                transport=Transport.UDP,
                x_wire=task.x_wire,
                partial_wire=task.partial_wire,
                width=task.hidden,
                max_tokens=1,
                max_payload=udp.MAX_PAYLOAD,
                window=udp.MAX_WINDOW,
                shards=[[] for _ in own],
            ),
            workers,
            udp.UdpWorkerLink(self._workers_socket, (address, port)),
            self._clock,
        )
        link = udp.UdpRootLink(self._socket, {WORKER: self._workers_socket.getsockname()})
        self._ladder = Ladder(
            rounds, link, {WORKER: "over loopback"}, None, None, _nobody_left, Tracer(), Counts()
        )
        self._cores = _apart()
        self._step = -1
        self._wake, self._woken = os.pipe()
        self._thread = threading.Thread(
            target=self._serve, args=(session,), name="benchmark", daemon=True
        )

    def round(self, layer: int) -> None:
        """As `RoundsFfn` makes it. Layers come in order, from 0. Raises `HaloError` if loopback
        does not carry it."""
        rounds, ladder = self._rounds, self._ladder
        self._step += layer == 0
        begun_s = time.thread_time()
        x = self._encoder.encode(1)
        now = time.monotonic()
        ladder.begin_round(now)
        rounds.begin(RoundId(self._step, layer), 1, x, now)
        ladder.send(now)
        own_begun_s = time.thread_time()
        self._own.run(layer, 1)
        own_s = time.thread_time() - own_begun_s
        ladder.collect(layer, 1)
        self._sum.add(1)
        self._root_s.append(time.thread_time() - begun_s - own_s)

    def took_s(self, warm_up: int) -> float:
        """A round, root and worker together, after so many. Medians: some are disturbed for long.
        To be asked afterwards."""
        return median(self._root_s[warm_up:]) + median(self._clock.protocol_s[warm_up - 1 :])

    def pieces_s(self, piece_s: Callable[[str], float]) -> float:
        """The same by the laps of `BenchRounds`, and "wake", counted as a plan does."""
        once = ("encode", "round", "add", "serve", "wake")
        datagram_s = sum(piece_s(name) for name in ("seal", "send", "receive"))
        return sum(map(piece_s, once)) + self._datagrams * datagram_s

    def _serve(self, session: Session) -> None:
        with _on_core(self._cores[1]):
            session.serve(self._wake)

    def __enter__(self) -> BenchSession:
        self._stack = contextlib.ExitStack()
        self._stack.callback(self._close)
        self._stack.enter_context(_on_core(self._cores[0]))
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _close(self) -> None:
        os.close(self._woken)  # which makes the other end readable
        self._thread.join(_END_TIMEOUT_S)
        os.close(self._wake)
        self._socket.close()
        self._workers_socket.close()


class _Clock(DecodeClock):
    """That remembers what each round took beside the FFN."""

    def __init__(self) -> None:
        super().__init__(0)
        self.protocol_s: list[float] = []

    def sample(self, cpu_s: float, wall_s: float, round_cpu_s: float) -> None:
        self.protocol_s.append(round_cpu_s - cpu_s)


def _session(
    assignment: Assignment,
    weights: Sequence[LayerWeights],
    link: udp.UdpWorkerLink,
    clock: DecodeClock,
) -> Session:
    held = HeldTiles(threads=1)
    nothing: list[list[LayerWeights]] = [[] for _ in weights]
    shards = LoadedShards(weights, [[] for _ in nothing], [[] for _ in nothing])
    part = WorkerPart(assignment, shards, held.runtime, HeldFill(None))
    part.clock = clock
    return Session(assignment.session, held, part, link, trace=False)


def _nobody_left() -> str | None:
    return None


def _apart() -> tuple[int | None, int | None]:
    """A core for the root and another for the worker; None where that cannot be had."""
    try:
        cores = sorted(os.sched_getaffinity(0))
    except (AttributeError, OSError):  # not Linux
        return None, None
    return (cores[0], cores[1]) if len(cores) > 1 else (None, None)


@contextlib.contextmanager
def _on_core(core: int | None) -> Iterator[None]:
    """The calling thread, meanwhile; of no effect where the kernel refuses."""
    if core is None:
        yield
        return
    before = os.sched_getaffinity(0)
    with contextlib.suppress(OSError):
        os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            os.sched_setaffinity(0, before)

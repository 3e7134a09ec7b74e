"""The root's cluster: workers found, assigned, and ready for rounds.

Everything here happens before the first token; the rounds themselves are in `rounds_ffn.py`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final
from uuid import uuid4

import zenoh

from halo_edge.cluster import control, tcp, udp
from halo_edge.cluster.addresses import local_address_towards, shared_bits
from halo_edge.cluster.discovery import check_usable
from halo_edge.cluster.links import RootLink
from halo_edge.cluster.messages import (
    CONTROL_VERSION,
    Assignment,
    AssignmentReply,
    LayerShard,
    Transport,
    WorkerInfo,
    decode,
    encode,
)
from halo_edge.cluster.rounds_ffn import RoundsFfn
from halo_edge.cluster.shard_server import ShardServer
from halo_edge.cluster.trace_fetch import DeviceTrace, fetch_trace
from halo_edge.compute.activations import Activations
from halo_edge.compute.ffn import FfnGraphs
from halo_edge.compute.partials import PartialSum
from halo_edge.compute.rows import Rows
from halo_edge.compute.runtime import Runtime
from halo_edge.compute.wire import Wire, WireCodec
from halo_edge.engine.trace import Tracer
from halo_edge.errors import HaloError
from halo_edge.groups.partition import Partition
from halo_edge.model.gguf_file import GgufFile
from halo_edge.model.hparams import HyperParameters
from halo_edge.plan.plan import Plan, split
from halo_edge.sync.ids import DeviceId
from halo_edge.sync.layout import RoundLayout
from halo_edge.sync.root import RootRounds
from halo_edge.sync.statistics import Statistics
from halo_edge.sync.timing import Recovery

# The shards of a 7B model over a 100 Mbit/s link take some five minutes.
ASSIGN_TIMEOUT_S: Final = 1800.0
DEFAULT_STALL_TIMEOUT_S: Final = 10.0


@dataclass(frozen=True)
class RoundsOptions:
    """How the rounds are carried. `split`: relative shares, the root's first; None: equal.
    `wrap_link`: puts something between the rounds and the network, such as `--impair`."""

    wire: Wire = Wire.MIXED
    transport: Transport = Transport.UDP
    split: Sequence[float] | None = None
    wrap_link: Callable[[RootLink], RootLink] | None = None
    stall_timeout_s: float = DEFAULT_STALL_TIMEOUT_S


class Cluster:
    """A root's session with its workers. Use as a context manager: leaving it lets them go."""

    def __init__(
        self,
        session: zenoh.Session,
        cluster: str,
        workers: Sequence[WorkerInfo],
        gguf: GgufFile,
        params: HyperParameters,
        options: RoundsOptions,
        progress: Callable[[int], None] = lambda _: None,
    ) -> None:
        """Assign `workers` their shards. `progress` is told the bytes of each shard sent.

        Raises `HaloError` for a worker that cannot be used, is refused, or does not answer.
        """
        for worker in workers:
            check_usable(worker)
        self._session = session
        self._cluster = cluster
        self._options = options
        self._params = params
        self._lost_worker: str | None = None
        self.replies: list[AssignmentReply] = []
        self.statistics = Statistics()
        self._link: RootLink | None = None
        self.workers = {DeviceId(i): worker for i, worker in enumerate(workers, 1)}
        self.name = uuid4().hex
        partition = Partition(params.ffn)
        self.plan = _plan(partition, options.split, len(workers) + 1)
        self._shards = ShardServer(gguf, params.n_layers, partition)
        self._shards.serve(session, cluster, self.name, progress)
        self._token = session.liveliness().declare_token(control.root_key(cluster, self.name))
        key = control.worker_key(cluster, "*")
        self._watch = session.liveliness().declare_subscriber(key, self._on_liveliness)
        self._x_codec = WireCodec(options.wire.x, params.hidden)
        self._partial_codec = WireCodec(options.wire.partial, params.hidden)

    def gather(self, runtime: Runtime, activations: Activations, tracer: Tracer) -> RoundsFfn:
        """Hand the workers their shards and open the link: the FFN for an engine.

        The workers record where their time goes if `tracer` does.
        Raises `HaloError` as the constructor does.
        """
        options, addresses = self._options, self._addresses()
        if options.transport is Transport.UDP:
            # One interface only where that reaches all workers, such as loopback.
            towards = {local_address_towards(address) for address, _ in addresses.values()}
            sock = udp.bind(towards.pop() if len(towards) == 1 else "0.0.0.0", 0)
            root_port = sock.getsockname()[1]
            max_payload, window = udp.MAX_PAYLOAD, udp.window(sock, len(addresses))
        else:
            root_port, max_payload, window = 0, tcp.MAX_PAYLOAD, udp.MAX_WINDOW
        layout = RoundLayout(
            n_layers=self._params.n_layers,
            max_tokens=activations.max_tokens,
            x_row_bytes=self._x_codec.row_bytes,
            x_block_bytes=self._x_codec.block_bytes,
            partial_row_bytes=self._partial_codec.row_bytes,
            partial_block_bytes=self._partial_codec.block_bytes,
            max_payload=max_payload,
            window=window,
        )
        key = os.urandom(32)
        self.replies = self._assign(key, layout, addresses, root_port, tracer.recording)
        link: RootLink
        if options.transport is Transport.UDP:
            link = udp.UdpRootLink(sock, addresses)
        else:
            link = tcp.TcpRootLink(addresses)
        if options.wrap_link is not None:
            link = options.wrap_link(link)
        self._link = link
        rounds = RootRounds(
            key,
            layout,
            list(self.workers),
            epoch=0,
            recovery=Recovery(reliable=options.transport is Transport.TCP),
            stall_timeout_s=options.stall_timeout_s,
        )
        self.statistics = rounds.statistics
        x, ffn = Rows.f32(activations.x), Rows.f32(activations.ffn)
        own = FfnGraphs(runtime, self._shards.own(self.plan.shares[0]), x, ffn)
        own.prepare()
        names = {device: worker.worker for device, worker in self.workers.items()}
        partials = [self._partial_codec.rows(rounds.partial_memory(device)) for device in names]
        return RoundsFfn(
            rounds,
            link,
            self._x_codec.encoder(activations.x),
            own,
            ffn,
            PartialSum(runtime, partials, ffn),
            names,
            lambda: self._lost_worker,
            tracer,
        )

    def traces(self) -> list[DeviceTrace]:
        """What the workers recorded. Raises `HaloError` for one that does not answer."""
        return [
            fetch_trace(self._session, self._cluster, worker.worker, self.name)
            for worker in self.workers.values()
        ]

    def close(self) -> None:
        """Let the workers go: they wait for another root."""
        if self._link is not None:
            self._link.close()
        self._watch.undeclare()  # type: ignore[no-untyped-call]
        self._token.undeclare()  # type: ignore[no-untyped-call]

    def __enter__(self) -> Cluster:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _addresses(self) -> dict[DeviceId, tuple[str, int]]:
        return {
            device: (_reachable_address(worker), worker.port)
            for device, worker in self.workers.items()
        }

    def _assign(
        self,
        key: bytes,
        layout: RoundLayout,
        addresses: dict[DeviceId, tuple[str, int]],
        root_port: int,
        trace: bool,
    ) -> list[AssignmentReply]:
        """Ask all workers at once, then wait for each: they load at the same time."""
        pending = []
        for device, worker in self.workers.items():
            assignment = Assignment(
                control_version=CONTROL_VERSION,
                session=self.name,
                key=key,
                device=device,
                epoch=0,
                root_address=local_address_towards(addresses[device][0]),
                root_port=root_port,
                transport=self._options.transport,
                x_wire=self._options.wire.x,
                partial_wire=self._options.wire.partial,
                width=self._params.hidden,
                max_tokens=layout.max_tokens,
                max_payload=layout.max_payload,
                window=layout.window,
                shards=self._shards_of(device),
                trace=trace,
            )
            question = control.worker_key(self._cluster, worker.worker) + "/assign"
            replies = self._session.get(
                question, payload=encode(assignment), timeout=ASSIGN_TIMEOUT_S
            )
            pending.append((worker, replies))
        answers = []
        for worker, replies in pending:
            answer = next((r.ok for r in replies if r.ok is not None), None)
            if answer is None:
                raise HaloError(f"worker {worker.worker} left while its shards were loaded")
            reply = decode(answer.payload.to_bytes(), AssignmentReply, worker.worker)
            if reply.error:
                raise HaloError(reply.error)
            answers.append(reply)
        return answers

    def _shards_of(self, device: DeviceId) -> list[LayerShard | None]:
        return self._shards.shards(self.plan.shares[device])

    def _on_liveliness(self, sample: zenoh.Sample) -> None:
        worker = str(sample.key_expr).rsplit("/", 1)[-1]
        ours = {w.worker for w in self.workers.values()}
        if sample.kind == zenoh.SampleKind.DELETE and worker in ours:
            self._lost_worker = worker


def _plan(partition: Partition, weights: Sequence[float] | None, n_devices: int) -> Plan:
    if weights is not None and len(weights) != n_devices:
        raise HaloError(
            f"--split names {len(weights)} shares, but there are {n_devices} devices "
            f"(the root and {n_devices - 1} workers)"
        )
    return split(partition.n_groups, weights or [1.0] * n_devices)


def _reachable_address(worker: WorkerInfo) -> str:
    """The worker's address on the network that we share, as far as addresses tell."""
    return max(worker.addresses, key=shared_bits)  # the first of equals

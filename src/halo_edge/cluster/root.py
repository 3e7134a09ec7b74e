"""The root's cluster: workers found, assigned, and ready for rounds.

Everything here happens before the first token; the rounds themselves are in `rounds_ffn.py`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from uuid import uuid4

import numpy as np
import zenoh
from numpy.typing import NDArray

from halo_edge.cluster import control, tcp, udp
from halo_edge.cluster.addresses import local_address_towards, shared_bits
from halo_edge.cluster.discovery import check_usable
from halo_edge.cluster.fill_fetch import fetch_fills
from halo_edge.cluster.holdings import Holdings
from halo_edge.cluster.links import RootLink
from halo_edge.cluster.messages import (
    CONTROL_VERSION,
    Assignment,
    AssignmentReply,
    Transport,
    WorkerInfo,
    decode,
    encode,
)
from halo_edge.cluster.relaxation import RelaxOptions, Spent
from halo_edge.cluster.relaxing import Relaxable
from halo_edge.cluster.rounds_ffn import RoundsFfn
from halo_edge.cluster.shard_server import serve_shards
from halo_edge.cluster.stand_in import StandIn
from halo_edge.cluster.trace_fetch import DeviceTrace, fetch_trace
from halo_edge.compute.activations import Activations, StepInputs
from halo_edge.compute.ffn import FfnGraphs
from halo_edge.compute.partials import PartialSum
from halo_edge.compute.requantise import DownType
from halo_edge.compute.rows import Rows
from halo_edge.compute.runtime import Runtime
from halo_edge.compute.wire import Wire, WireCodec
from halo_edge.engine.trace import Tracer
from halo_edge.errors import HaloError
from halo_edge.groups.placement import Placement, placed
from halo_edge.groups.profile import Profile
from halo_edge.groups.sketch import Sketch
from halo_edge.model.gguf_file import GgufFile
from halo_edge.model.hparams import HyperParameters
from halo_edge.sync.ids import DeviceId
from halo_edge.sync.layout import RoundLayout
from halo_edge.sync.peer import LinkReport
from halo_edge.sync.root import RootRounds
from halo_edge.sync.statistics import Statistics
from halo_edge.sync.timing import Recovery

# The shards of a 7B model over a 100 Mbit/s link take some five minutes.
ASSIGN_TIMEOUT_S: Final = 1800.0
DEFAULT_STALL_TIMEOUT_S: Final = 10.0


@dataclass(frozen=True)
class RoundsOptions:
    """Who holds what, and how the rounds are carried.

    `split`: relative shares, the root's first; None: equal. `wrap_link`: puts something between the
    rounds and the network, such as `--impair`. `relax`: how far rounds go on without what is late
    or lost. `profile`: gives the neurons their order, changed by
    `placement`, and `down` is what it makes of ffn_down; None: the model file's order. `shards`:
    where packed shards are kept; None: in the user's cache.
    """

    wire: Wire = Wire.MIXED
    transport: Transport = Transport.UDP
    split: Sequence[float] | None = None
    wrap_link: Callable[[RootLink], RootLink] | None = None
    stall_timeout_s: float = DEFAULT_STALL_TIMEOUT_S
    relax: RelaxOptions = field(default_factory=RelaxOptions)
    profile: Profile | None = None
    placement: Placement = Placement.CRITICAL
    placement_seed: int = 0
    down: DownType = DownType.Q8_0
    shards: Path | None = None


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
        profile = options.profile
        if profile is not None:
            profile = placed(profile, options.placement, options.placement_seed)
        self.holdings = Holdings(
            gguf, params, options.split, len(workers) + 1, profile, options.down, options.shards
        )
        self.plan = self.holdings.plan
        serve_shards(self.holdings.store, session, cluster, self.name, progress)
        self._gather: RoundsFfn | None = None
        self._token = session.liveliness().declare_token(control.root_key(cluster, self.name))
        key = control.worker_key(cluster, "*")
        self._watch = session.liveliness().declare_subscriber(key, self._on_liveliness)
        self._x_codec = WireCodec(options.wire.x, params.hidden)
        self._partial_codec = WireCodec(options.wire.partial, params.hidden)

    def gather(
        self, runtime: Runtime, activations: Activations, inputs: StepInputs, tracer: Tracer
    ) -> RoundsFfn:
        """Hand the workers their shards and open the link: the FFN for an engine.

        `inputs`: whose tokens each step has. The workers record where their time goes if `tracer`
        does.
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
        relaxable = self._relaxable(inputs, activations.x)
        projections = relaxable.sketch.projections if relaxable is not None else None
        own = FfnGraphs(runtime, self.holdings.own(), x, ffn, projections)
        own.prepare()
        encoder = self._x_codec.encoder(activations.x)
        stand_in = StandIn(
            self.holdings.store,
            self.holdings.neurons,
            self._params.n_layers,
            runtime,
            encoder,
            self._x_codec,
            self._partial_codec,
            activations.max_tokens,
        )
        names = {device: worker.worker for device, worker in self.workers.items()}
        partials = [self._partial_codec.rows(rounds.partial_memory(device)) for device in names]
        self._gather = gather = RoundsFfn(
            rounds,
            link,
            encoder,
            own,
            ffn,
            PartialSum(runtime, partials, ffn),
            names,
            lambda: self._lost_worker,
            tracer,
            stand_in,
            relaxable,
        )
        gather.relax(options.relax)
        return gather

    def relax(self, options: RelaxOptions) -> None:
        """How far rounds are relaxed from the next step on; what was learned is forgotten.

        Raises `HaloError` for what takes a profile and has none.
        """
        self._opened().relax(options)

    @property
    def spent(self) -> Spent:
        """What the rounds needed so far beyond what came by itself."""
        return self._opened().spent()

    def link_reports(self) -> dict[DeviceId, LinkReport]:
        """How the links to the workers are at present."""
        return self._opened().link_reports()

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

    def _opened(self) -> RoundsFfn:
        if self._gather is None:
            raise RuntimeError("gather() comes first")
        return self._gather

    def _relaxable(self, inputs: StepInputs, x: NDArray[np.float32]) -> Relaxable | None:
        """None without a profile."""
        profile = self.holdings.profile
        if profile is None:
            return None
        weights = self._fetch_fills(profile.rank + 1)
        sketch = Sketch(profile, len(x), x)
        return Relaxable(profile, self.plan.shares, weights, sketch, inputs, self._partial_codec)

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
        shards = self.holdings.shards()
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
                shards=shards[device],
                fill=self.holdings.fill_task(device),
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

    def _fetch_fills(self, columns: int) -> dict[DeviceId, NDArray[np.float32]]:
        params = self._params
        held = self.holdings.neurons
        names = {d: worker.worker for d, worker in self.workers.items() if held[d]}
        shape = (params.n_layers, params.hidden, columns)
        return fetch_fills(self._session, self._cluster, self.name, names, shape)

    def _on_liveliness(self, sample: zenoh.Sample) -> None:
        worker = str(sample.key_expr).rsplit("/", 1)[-1]
        ours = {w.worker for w in self.workers.values()}
        if sample.kind == zenoh.SampleKind.DELETE and worker in ours:
            self._lost_worker = worker


def _reachable_address(worker: WorkerInfo) -> str:
    """The worker's address on the network that we share, as far as addresses tell."""
    return max(worker.addresses, key=shared_bits)  # the first of equals

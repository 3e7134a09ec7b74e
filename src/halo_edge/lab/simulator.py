"""A generation on a cluster, in virtual time: `LabSpec` and model in, times of the tokens out.

A discrete-event simulation around the same `sync` objects as the real transport drives.
docs/simulator.md says what is modelled and what is not.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import partial
from typing import Final

import simpy

from halo_edge.cluster import udp
from halo_edge.cluster.root import DEFAULT_STALL_TIMEOUT_S
from halo_edge.cluster.round_layout import round_layout
from halo_edge.compute.wire import Wire, WireCodec
from halo_edge.engine.engine import PREFILL_CHUNK
from halo_edge.errors import HaloError
from halo_edge.lab.link import Link
from halo_edge.lab.sim_cpu import SharedThread
from halo_edge.lab.sim_device import Place, RootDevice, WorkerDevice, WorkerLeft
from halo_edge.lab.sim_host import Host
from halo_edge.lab.sim_inbox import CAPACITY, Inbox
from halo_edge.lab.sim_network import Network, Port
from halo_edge.lab.sim_result import DeviceUse, Simulated
from halo_edge.lab.sim_thread import OwnCore, Process
from halo_edge.lab.sim_trace import SimTrace
from halo_edge.lab.spec import Action, DeviceSpec, Event, LabSpec
from halo_edge.plan.costs import Costs
from halo_edge.plan.device_profile import HOST, DeviceProfile
from halo_edge.plan.model_shape import ModelShape
from halo_edge.plan.plan import Plan, split
from halo_edge.sync.errors import DeviceStalled
from halo_edge.sync.ids import DeviceId, RoundId
from halo_edge.sync.layout import RoundLayout
from halo_edge.sync.root import RootRounds
from halo_edge.sync.statistics import Statistics
from halo_edge.sync.timing import Recovery
from halo_edge.sync.worker import ReadyRound, WorkerRounds

# Decoded before what counts: the protocol's timers know the links then.
WARM_TOKENS: Final = 3
# The control plane tells the root that a worker's process is gone, so soon (measured).
LEFT_AFTER_S: Final = 0.02
ROOT_PORT: Final = 0
_EPOCH: Final = 0


@dataclass(frozen=True)
class Work:
    """A prompt of `prompt` tokens, then `tokens` that are counted, after `WARM_TOKENS` more.

    `max_copies`: how often a chunk may travel at once, where losses make it worth while.
    """

    shape: ModelShape
    wire: Wire = Wire.MIXED
    prompt: int = 8
    tokens: int = 32
    stall_timeout_s: float = DEFAULT_STALL_TIMEOUT_S
    max_copies: int = 1

    def layout(self, workers: int) -> RoundLayout:
        """As `cluster/root.py` makes it over UDP, with as many workers."""
        window = CAPACITY // max(workers, 1) // 2
        return round_layout(
            WireCodec(self.wire.x, self.shape.hidden),
            WireCodec(self.wire.partial, self.shape.hidden),
            n_layers=self.shape.n_layers,
            max_tokens=PREFILL_CHUNK,
            max_payload=udp.MAX_PAYLOAD,
            window=max(udp.MIN_WINDOW, min(udp.MAX_WINDOW, window)),
        )


def simulate(
    spec: LabSpec,
    work: Work,
    profiles: Mapping[str, DeviceProfile],
    trace: SimTrace | None = None,
    plan: Plan | None = None,
) -> Simulated:
    """`profiles`: by the names in `spec`; a device without one is a process of this machine, and
    computes as the profile `HOST`, within its quota and on its cores. The others have a machine of
    their own. `plan`: who computes how much; None: all the same. A worker without any is asked all
    the same.

    Raises `HaloError` where a profile is missing, or does not know the machine.
    """
    return _Simulation(spec, work, profiles, trace or SimTrace(), plan).run()


@dataclass
class _Progress:
    ttft_s: float = 0.0
    tokens_s: list[float] = field(default_factory=list)
    ended: str | None = None


class _Simulation:
    def __init__(
        self,
        spec: LabSpec,
        work: Work,
        profiles: Mapping[str, DeviceProfile],
        trace: SimTrace,
        plan: Plan | None,
    ) -> None:
        self._spec, self._work, self._trace = spec, work, trace
        self._env = env = simpy.Environment()
        self._profiles = [_profile(device, profiles) for device in spec.devices]
        self._host = Host(env, spec, profiles.get(HOST))
        ports = [
            Port(
                device.name,
                Link(device.up, f"{spec.seed}/{device.name}/up"),
                Link(device.down, f"{spec.seed}/{device.name}/down"),
                Inbox(env),
            )
            for device in spec.devices
        ]
        self._network = Network(env, ports, trace, forwarder=self._host.forwarder)
        self._threads = [
            self._host.thread(device) if profile.name == HOST else OwnCore(env)
            for device, profile in zip(spec.devices, self._profiles, strict=True)
        ]
        key = hashlib.sha256(f"simulated {spec.seed}".encode()).digest()
        layout = work.layout(len(spec.workers))
        self._x = bytes(layout.max_tokens * layout.x_row_bytes)
        self._x_row_bytes = layout.x_row_bytes
        self._partial = bytes(layout.max_tokens * layout.partial_row_bytes)
        self._partial_row_bytes = layout.partial_row_bytes
        ids = {DeviceId(port): port for port in range(1, len(ports))}
        partition = work.shape.partition
        plan = plan or split(partition.n_groups, [1.0] * len(ports))
        neurons = [len(partition.neuron_range(share)) for share in plan.shares]
        recovery = Recovery(max_copies=work.max_copies)
        self._root = RootDevice(
            self._place(ROOT_PORT),
            RootRounds(
                key,
                layout,
                list(ids),
                epoch=_EPOCH,
                recovery=recovery,
                stall_timeout_s=work.stall_timeout_s,
            ),
            neurons[ROOT_PORT],
            ids,
        )
        self._workers = [
            WorkerDevice(
                self._place(port),
                ROOT_PORT,
                WorkerRounds(key, layout, device, epoch=_EPOCH, recovery=recovery),
                neurons[port],
                self._answer,
            )
            for device, port in ids.items()
        ]
        self._progress = _Progress()
        self._counted_from = 0.0
        self._used_before: list[tuple[float, float]] = []

    def run(self) -> Simulated:
        env, progress = self._env, self._progress
        for worker in self._workers:
            env.process(worker.serve())
        clients = {client.name for client in self._spec.clients}
        for event in self._spec.events:
            if event.device in clients:  # no part of what is simulated
                continue
            timer = env.timeout(event.at_s)
            assert timer.callbacks is not None
            timer.callbacks.append(partial(self._happen, event))
        env.run(until=env.process(self._generate()))
        return Simulated(
            ttft_s=progress.ttft_s,
            tokens_s=tuple(progress.tokens_s),
            virtual_s=env.now,
            root=self._root.rounds.statistics,
            workers=_sum([worker.rounds.statistics for worker in self._workers]),
            devices=tuple(self._use()),
            ended=progress.ended,
        )

    def _place(self, port: int) -> Place:
        costs = Costs(self._profiles[port], self._work.shape)
        return Place(self._env, self._network, port, self._threads[port], costs, self._trace)

    def _answer(self, request: ReadyRound) -> bytes:
        return self._partial[: request.tokens * self._partial_row_bytes]

    def _generate(self) -> Process:
        """The root's decode loop: `Engine.step`, again and again."""
        env, progress, work = self._env, self._progress, self._work
        context = step = 0
        try:
            while context < work.prompt:
                tokens = min(PREFILL_CHUNK, work.prompt - context)
                context += tokens
                yield from self._step(step, tokens, context, logits=context == work.prompt)
                step += 1
            progress.ttft_s = before = env.now
            for token in range(WARM_TOKENS + work.tokens):
                if token == WARM_TOKENS:
                    self._counted_from, self._used_before = env.now, self._used()
                context += 1
                yield from self._step(step, 1, context, logits=True)
                step += 1
                self._trace.happens(env.now, "token")
                if token >= WARM_TOKENS:
                    progress.tokens_s.append(env.now - before)
                before = env.now
        except (DeviceStalled, WorkerLeft) as ended:
            progress.ended = str(ended)

    def _step(self, step: int, tokens: int, context: int, *, logits: bool) -> Process:
        root, costs = self._root, self._root.costs
        yield from root.work("prepare", costs.prepare_s(tokens))
        for layer in range(self._work.shape.n_layers):
            yield from root.work("attention", costs.attention_s(tokens, context))
            x = self._x[: tokens * self._x_row_bytes]
            yield from root.round(RoundId(step, layer), tokens, x)
        if logits:
            yield from root.work("head", costs.head_s())

    def _happen(self, event: Event, _: simpy.Event) -> None:
        """An event of the lab's description."""
        self._trace.happens(self._env.now, f"{event.action} {event.device}")
        names = [device.name for device in self._spec.devices]
        index = names.index(event.device)
        port, thread, action = self._network.ports[index], self._threads[index], event.action
        if action in (Action.CUT, Action.JOIN):
            port.cut(action is Action.CUT)
        elif action is Action.LINK:
            assert event.link is not None
            port.change(event.link)
        elif action is Action.SPEED:
            assert event.speed is not None
            if isinstance(thread, SharedThread):
                thread.limit(self._host.quota(event.device, event.speed))
            else:
                thread.rate = event.speed / (self._spec.devices[index].speed or 1.0)
        elif action is Action.STOP:
            thread.stop()
        elif action is Action.CONTINUE:
            thread.resume()
        else:  # killed: also a worker that starts again has lost its part in the session
            thread.stop()
            port.inbox = Inbox(self._env, 0)
            timer = self._env.timeout(LEFT_AFTER_S)
            assert timer.callbacks is not None
            timer.callbacks.append(lambda _: self._root.lose(event.device))

    def _used(self) -> list[tuple[float, float]]:
        """CPU time and waiting time so far, of each device."""
        devices = [self._root, *self._workers]
        return [(t.used_s, d.waited_s) for t, d in zip(self._threads, devices, strict=True)]

    def _use(self) -> list[DeviceUse]:
        took_s = self._env.now - self._counted_from
        before = self._used_before or [(0.0, 0.0)] * len(self._threads)
        return [
            # What began before the time in question is counted in it: hence no more than all.
            DeviceUse(
                device.name,
                min(1.0, (used - used_0) / took_s),
                min(1.0, (waited - waited_0) / took_s),
            )
            for device, (used, waited), (used_0, waited_0) in zip(
                self._spec.devices, self._used(), before, strict=True
            )
        ]


def _profile(device: DeviceSpec, profiles: Mapping[str, DeviceProfile]) -> DeviceProfile:
    name = device.profile or HOST
    try:
        return profiles[name]
    except KeyError:
        raise HaloError(f"device {device.name} needs the profile {name!r}") from None


def _sum(parts: list[Statistics]) -> Statistics:
    return Statistics(
        **{f.name: sum(getattr(part, f.name) for part in parts) for f in fields(Statistics)}
    )

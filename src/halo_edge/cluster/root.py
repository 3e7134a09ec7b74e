"""The root's cluster: a session with workers, from the first assignment until they are let go.

The rounds themselves are in `rounds_ffn.py`, what a plan makes of them in `epochs.py`, how one
plan follows another in `plan_in_use.py`.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from uuid import uuid4

import zenoh

from halo_edge.cluster.absent import Absent
from halo_edge.cluster.discovery import check_usable
from halo_edge.cluster.epochs import Epochs
from halo_edge.cluster.holdings import Packing
from halo_edge.cluster.live_scheduling import live_scheduling
from halo_edge.cluster.membership import Came, Left, Membership, Needed
from halo_edge.cluster.messages import WorkerInfo
from halo_edge.cluster.overview import Overview, Own, overview_of
from halo_edge.cluster.plan_in_use import PlanInUse, with_part
from halo_edge.cluster.planner import FixedShares, Planner, Workers, check_split
from halo_edge.cluster.relaxation import Happened, RelaxOptions, Spent
from halo_edge.cluster.replanner import Replanner, in_words
from halo_edge.cluster.root_end import RootEnd
from halo_edge.cluster.root_memory import RootMemory
from halo_edge.cluster.roster import Roster
from halo_edge.cluster.rounds_ffn import RoundsFfn
from halo_edge.cluster.rounds_options import DEFAULT_STALL_TIMEOUT_S, RoundsOptions
from halo_edge.cluster.scheduling import Outlook, Scheduling
from halo_edge.cluster.shard_server import serve_shards
from halo_edge.cluster.trace_fetch import DeviceTrace, fetch_trace
from halo_edge.compute.activations import Activations, StepInputs
from halo_edge.compute.rows import Rows
from halo_edge.compute.runtime import Runtime
from halo_edge.compute.wire import WireCodec
from halo_edge.engine.trace import Tracer
from halo_edge.errors import HaloError
from halo_edge.groups.placement import placed
from halo_edge.groups.profile import Floats
from halo_edge.model.gguf_file import GgufFile
from halo_edge.model.hparams import HyperParameters
from halo_edge.plan.plan import Plan
from halo_edge.sync.budget import SequenceKey
from halo_edge.sync.ids import DeviceId
from halo_edge.sync.peer import LinkReport
from halo_edge.sync.statistics import Statistics

__all__ = ["DEFAULT_STALL_TIMEOUT_S", "Cluster", "RoundsOptions"]


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
        tell: Callable[[str], None] = lambda _: None,
    ) -> None:
        """`progress` is told the bytes of each shard sent; `tell` a line for the user when there is
        a new plan.

        Raises `HaloError` for a worker that cannot be used, or a plan that does not fit.
        """
        for worker in workers:
            check_usable(worker)
        self._session = session
        self._cluster = cluster
        self._options = options
        self._memory = RootMemory(options.memory_bytes)
        self._gguf = gguf
        self._params = params
        self._end: RootEnd | None = None
        self._epochs: Epochs | None = None
        self._open: _Open | None = None
        self._replanner: Replanner | None = None
        self._scheduled: Scheduling | None = None
        self._tell = tell
        self.noticed: Callable[[Came | Left], None] = lambda _: None
        """Is told, in whatever thread, which workers come and go."""
        self._workers = {DeviceId(i): worker for i, worker in enumerate(workers, 1)}
        self.name = uuid4().hex
        profile = options.profile
        if profile is not None:
            profile = placed(profile, options.placement, options.placement_seed)
        check_split(options.split, len(workers))
        self.packing = Packing(gguf, params, profile, options.down, options.shards)
        serve_shards(self.packing.store, session, cluster, self.name, progress)
        self._membership = Membership(session, cluster, self.name, self._changed)

    def gather(
        self, runtime: Runtime, activations: Activations, inputs: StepInputs, tracer: Tracer
    ) -> RoundsFfn:
        """Open the link, and hand the workers their shards: the FFN for an engine. A root that can
        do without them begins at once, and they are measured and loaded meanwhile.

        `inputs`: whose tokens each step has. The workers record where their time goes if `tracer`
        does. Raises `HaloError` for a worker that refuses, or does not answer.
        """
        options, wire = self._options, self._options.wire
        self._own = Own(socket.gethostname(), runtime.threads, self._memory.limits().memory_bytes)
        self._end = end = RootEnd(options.transport, self._workers)
        encoder = WireCodec(wire.x, self._params.hidden).encoder(activations.x)
        terms = end.terms(
            self._cluster,
            self.name,
            self._params,
            wire,
            activations.max_tokens,
            trace=tracer.recording,
        )
        self._epochs = epochs = Epochs(
            self._session,
            terms,
            self.packing,
            runtime,
            activations,
            inputs,
            encoder,
            options.stall_timeout_s,
            self._memory,
            self._tell,
        )
        scheduling = self._scheduling(runtime.threads, inputs.max_kv)
        planner: Planner = scheduling or FixedShares(
            self.packing.shape, options.split, options.replicas or 0
        )
        # Fills can come later, where recovery is what stands in for them, and the plan can change.
        strict = epochs.relaxable and end.may_change and options.relax.recovery
        # Over TCP workers cannot come later.
        alone = scheduling.alone() if scheduling is not None and end.may_change else None
        if alone:
            plan = alone
            epoch = epochs.alone(plan)
        else:
            made = planner.plan(self._workers)
            plan = made.plan
            if scheduling is not None:
                self._tell(in_words("plan", made, self._workers))
            make = epochs.make_strict if strict else epochs.make
            epoch = make(plan, with_part(plan, self._workers))
        rounds = RoundsFfn(
            epoch,
            options.relax,
            end.open(options.wrap_link),
            encoder,
            Rows.f32(activations.ffn),
            self._lost,
            tracer,
            self._pause if end.may_change else None,
            relaxable=epochs.relaxable,
        )
        loading = frozenset(self._workers) if alone else frozenset[DeviceId]()
        in_use = PlanInUse(plan, self._workers, loading, epochs, end, rounds)
        absent = Absent(rounds, lambda name: self._ask(name).session == self.name)
        roster = Roster(self._membership, in_use, rounds, absent)
        self._open = _Open(rounds, in_use, roster, absent)
        if scheduling is not None:
            scheduling.rounds = rounds
            self._scheduled = scheduling
        if end.may_change:
            self._replanner = Replanner(
                self.name,
                self._workers,
                plan,
                planner,
                self._ask,
                in_use.replace,
                in_use.replace_in_a_hurry,
                self._tell,
                absent.look,
            )
            clock = rounds.between
            if alone:
                self._replanner.plan_and_follow(lambda: clock.begun_steps)
            elif strict:
                self._replanner.complete_and_follow(lambda: clock.begun_steps)
            else:
                self._replanner.follow()
        return rounds

    @property
    def plan(self) -> Plan:
        """The one in use, or about to be."""
        return self._opened().in_use.plan

    @property
    def workers(self) -> Workers:
        """All that are or were part of a plan."""
        return self._workers if self._open is None else self._open.in_use.workers

    @property
    def outlook(self) -> Outlook | None:
        """What the scheduler makes of the plan in use; None without one, or while nothing is known
        of it yet."""
        return self._scheduled.outlook if self._scheduled is not None else None

    @property
    def members(self) -> Mapping[DeviceId, str]:
        """The workers of the plan in use, by name."""
        return self._opened().rounds.members

    @property
    def relaxable(self) -> bool:
        """Whether rounds can be relaxed from the next step on: while what would take the place of
        lost chunks is not there yet, all are strict. Any thread may ask."""
        return self._opened().rounds.relaxable

    def relax(self, options: RelaxOptions) -> None:
        """How far rounds are relaxed from the next step on that is relaxable; what was learned is
        forgotten.

        Raises `HaloError` for what takes a profile and has none.
        """
        self._opened().rounds.relax(options)
        if self._scheduled is not None:
            self._scheduled.relax(options.kl_budget)

    def open_account(self, sequence: int, nats_per_token: float) -> None:
        """A sequence of the engine's, about to begin, has a budget of its own. In the engine's
        thread. Raises `HaloError` for what takes a profile and has none."""
        self._opened().rounds.open_account(SequenceKey(sequence), nats_per_token)

    def close_account(self, sequence: int) -> float:
        """A sequence has ended; the predicted damage of what it went on without, in nats. In the
        engine's thread."""
        return self._opened().rounds.close_account(SequenceKey(sequence))

    @property
    def statistics(self) -> Statistics:
        """Of the root's rounds, of all epochs."""
        return Statistics() if self._epochs is None else self._epochs.statistics

    @property
    def spent(self) -> Spent:
        """What the rounds needed so far beyond what came by itself."""
        return self._opened().rounds.spent()

    def link_reports(self) -> dict[DeviceId, LinkReport]:
        """How the links to the workers are at present."""
        return self._opened().rounds.link_reports()

    @property
    def away(self) -> frozenset[DeviceId]:
        """The workers that are taken for gone at present. Any thread may ask."""
        return self._opened().absent.devices

    def sketches(self) -> Floats | None:
        """See `Epochs.sketches`."""
        return None if self._epochs is None else self._epochs.sketches()

    def happened(self) -> Happened:
        """Where chunks did not come by themselves."""
        return self._opened().rounds.happened()

    def hear(self) -> None:
        """Ask the workers in use how they are, for `overview`. It may take seconds."""
        self._opened().roster.hear()

    def overview(self) -> Overview:
        """What is known of the session and its devices. Any thread may ask."""
        opened = self._opened()
        members = opened.roster.members({} if self._replanner is None else self._replanner.known)
        late = {} if self._epochs is None else dict(self._epochs.late)
        return overview_of(
            opened.in_use.plan, self.packing.shape, members, opened.rounds, late, self._own
        )

    def traces(self) -> list[DeviceTrace]:
        """What the workers recorded. Raises `HaloError` for one that does not answer."""
        return [
            fetch_trace(self._session, self._cluster, worker.worker, self.name)
            for device, worker in self.workers.items()
            if device in self.members
        ]

    def close(self) -> None:
        """Let the workers go: they wait for another root."""
        if self._replanner is not None:
            self._replanner.close()
        if self._epochs is not None:
            self._epochs.close()
        if self._end is not None:
            self._end.close()
        self._membership.close()

    def __enter__(self) -> Cluster:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _opened(self) -> _Open:
        if self._open is None:
            raise RuntimeError("gather() comes first")
        return self._open

    def _scheduling(self, threads: int, kv_cells: int) -> Scheduling | None:
        options = self._options
        if not options.scheduled or options.split is not None:
            return None
        return live_scheduling(
            self._session,
            self._cluster,
            self._gguf,
            self.packing,
            options,
            threads,
            kv_cells,
            self._ask,
            self._memory,
        )

    def _ask(self, name: str) -> WorkerInfo:
        """Raises `HaloError` for a worker that does not answer, or cannot be used from here."""
        worker = self._membership.ask(name)
        assert self._end is not None
        if not self._end.hears(worker):
            raise HaloError(f"worker {name} is on another network than the others")
        return worker

    def _lost(self) -> str | None:
        """A worker in use that has left."""
        left = self._membership.has_left
        return next((name for name in self.members.values() if left(name)), None)

    def _pause(self, worker: str) -> None:
        """Rounds wait for what that worker alone can compute."""
        self._tell(
            f"worker {worker} is gone and nobody else holds its neurons; paused until they are "
            f"loaded elsewhere"
        )
        if self._replanner is not None:
            self._replanner.put(Needed(worker))

    def _changed(self, event: Came | Left) -> None:
        self.noticed(event)
        if self._replanner is not None:
            self._replanner.put(event)


@dataclass(frozen=True)
class _Open:
    """What there is once the rounds can begin."""

    rounds: RoundsFfn
    in_use: PlanInUse
    roster: Roster
    absent: Absent

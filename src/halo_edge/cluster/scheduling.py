"""The scheduler at work in a session: asked about the devices that are there, as they are.

A worker that joins is measured (`measuring`); from then on real rounds say how fast it is, and what
its link is like.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Final, Protocol

from halo_edge.cluster.duty_cycle import EAGER, FREE, DutyCycle
from halo_edge.cluster.live_devices import LiveDevices
from halo_edge.cluster.measuring import Measured
from halo_edge.cluster.messages import WorkerInfo
from halo_edge.cluster.planner import INHERITED, Planned, Workers, gone
from halo_edge.cluster.root_memory import RootMemory
from halo_edge.cluster.speed import DecodeTimes, RootClock
from halo_edge.errors import HaloError
from halo_edge.plan.bound import bound_s
from halo_edge.plan.link import Link
from halo_edge.plan.memory import capacities, groups_at_root, tile_groups
from halo_edge.plan.plan import Plan
from halo_edge.plan.prediction import Predictions
from halo_edge.plan.replanning import Replanning
from halo_edge.plan.replicas import inherited, replicas
from halo_edge.plan.schedule import Schedule
from halo_edge.plan.timeline import Timelines
from halo_edge.sync.ids import ROOT, DeviceId
from halo_edge.sync.peer import LinkReport

MAX_MEASURED_AT_ONCE: Final = 16
# How often links are looked at over which there are no rounds.
IDLE_PROBE_S: Final = 60.0


class Rounds(Protocol):
    """What rounds say of the root and the links, `RoundsFfn`."""

    @property
    def own_times(self) -> DecodeTimes: ...

    @property
    def between(self) -> RootClock: ...

    def link_reports(self) -> Mapping[DeviceId, LinkReport]: ...


class Measures(Protocol):
    """What can be found out of workers, `Measuring`. All raise `HaloError`."""

    def device(self, worker: WorkerInfo) -> Measured: ...

    def link(self, worker: WorkerInfo) -> Link: ...

    def rtt_s(self, worker: WorkerInfo) -> float: ...


@dataclass(frozen=True)
class Outlook:
    """Of the plan in use, from what is known of the devices by now: its TPOT, and that which no
    plan can beat (`plan.bound`)."""

    tpot_s: float
    bound_s: float


class Scheduling:
    """A `Planner`. `ask` gets what a worker says of itself, and raises `HaloError`. `memory`: the
    root's.

    `devices` measures the root, and may raise `HaloError`; it is called with the first plan, so
    that who begins alone need not wait for it.
    """

    def __init__(
        self,
        devices: Callable[[], LiveDevices],
        replanning: Replanning,
        measures: Measures,
        ask: Callable[[str], WorkerInfo],
        memory: RootMemory,
    ) -> None:
        self.rounds: Rounds | None = None
        """Once there are any."""
        self.outlook: Outlook | None = None
        """Once the plan in use was looked at. Any thread may ask."""
        self._seen = -1  # rounds of one token
        self._probed_at: dict[DeviceId, float] = {}
        self._make_devices = devices
        self._replanning = replanning
        self._replanning.between = self._rest
        self._duty = DutyCycle(share=EAGER, free=FREE)
        self._measures = measures
        self._ask = ask
        self._memory = memory

    @cached_property
    def _devices(self) -> LiveDevices:
        return self._make_devices()

    def plan(self, workers: Workers) -> Planned:
        """Raises `HaloError` for devices that cannot hold the model together."""
        new = {d: worker for d, worker in workers.items() if d not in self._devices}
        if new:
            with ThreadPoolExecutor(min(len(new), MAX_MEASURED_AT_ONCE)) as pool:
                measured = pool.map(self._measured, new.values())
                for (device, worker), found in zip(new.items(), measured, strict=True):
                    self._devices.add(device, worker.worker, found)
        self._look_at(new)
        if self.rounds is not None:
            self._hear({d: worker for d, worker in workers.items() if d not in new})
        numbers = list(workers)
        self._duty.begin()
        return _planned(self._replanning.plan(self._devices.cluster(numbers)), numbers)

    def inherited(self, plan: Plan, workers: Workers) -> Planned | None:
        """See `Planner`. From what is known already."""
        workload = self._replanning.workload
        tile = tile_groups(workload.shape)
        found = inherited(plan, gone(plan, workers), tile)
        if found is None:
            return None
        numbers = [DeviceId(d) for d in found.workers]
        _, *fits = capacities(self._devices.cluster(numbers), workload)
        room = dict(zip(numbers, fits, strict=True))
        capacity = [room.get(DeviceId(d), 0) for d in range(found.n_devices)]
        held = replicas(found.shares, capacity, tile, workload.replicas)
        return Planned(replace(found, replicas=held), INHERITED)

    def _measured(self, worker: WorkerInfo) -> Measured:
        """One that does not answer, on a bad link perhaps, is taken to be like the root, until
        rounds say more."""
        try:
            return self._measures.device(worker)
        except HaloError:
            return Measured(self._devices.own_benchmark, None, Link())

    def alone(self) -> Plan | None:
        """The root without anybody; None where it has too little memory for that."""
        workload = self._replanning.workload
        n_groups = workload.shape.partition.n_groups
        fits = groups_at_root(self._memory.limits().memory_bytes, workload)
        return Plan((range(n_groups),)) if fits == n_groups else None

    def better(self, plan: Plan, workers: Workers, now: float) -> Planned | None:
        """Raises `HaloError` where what there is by now cannot hold the model. None while nothing
        is computed."""
        rounds = self.rounds.between.rounds if self.rounds is not None else 0
        if rounds == self._seen:
            return None
        self._seen = rounds
        numbers = list(workers)
        heard = self._hear(workers)
        self._probe_idle({d: worker for d, worker in heard.items() if d not in plan.workers}, now)
        in_use = _of(plan, numbers)
        cluster, workload = self._devices.cluster(numbers), self._replanning.workload
        in_use = Predictions(cluster, workload).as_sent(in_use)
        self._compare(in_use, numbers)
        cluster = self._devices.cluster(numbers)
        self.outlook = Outlook(
            Predictions(cluster, workload).tpot_s(in_use), bound_s(cluster, workload)
        )
        self._duty.begin()
        found = self._replanning.better(cluster, in_use, now)
        return None if found is None else _planned(found, numbers)

    def _rest(self) -> None:
        if self.rounds is not None:
            self._duty.rest()

    def relax(self, kl_budget: float) -> None:
        """Nats a token that may be spent from now on. Any thread may say so."""
        self._replanning.relax(kl_budget)

    def planned(self, now: float) -> None:
        self._replanning.planned(now)

    def _compare(self, plan: Plan, workers: Sequence[DeviceId]) -> None:
        """What rounds take with what this plan's were expected to."""
        timelines = Timelines(self._devices.cluster(workers), self._replanning.workload)
        groups = [len(share) for share in plan.shares]
        copies = [plan.copies_on(d) for d in range(plan.n_devices)]
        busy_s = timelines.round(groups, copies, 1).busy_s
        ffn_s = (timelines.compute_s(d, n, 1) for d, n in enumerate(groups))
        self._devices.compare(workers, [a - b for a, b in zip(busy_s, ffn_s, strict=True)])

    def _hear(self, workers: Workers) -> Workers:
        """Those that answer, with what they say by now. Who is away is admission's business, and
        is as it was."""
        heard = {}
        for device, worker in workers.items():
            with contextlib.suppress(HaloError):
                heard[device] = self._ask(worker.worker)
                self._devices.round_trip(device, self._measures.rtt_s(worker))
        self._look_at(heard)
        return heard

    def _probe_idle(self, workers: Workers, now: float) -> None:
        """Those without a share: their links may have become better, or worse. One at a time: it
        takes seconds on a bad link, in which nothing is replanned."""
        if not workers:
            return
        for device in workers:
            self._probed_at.setdefault(device, now)  # as it came
        device = min(workers, key=self._probed_at.__getitem__)
        if now - self._probed_at[device] >= IDLE_PROBE_S:
            self._probed_at[device] = now
            with contextlib.suppress(HaloError):
                self._devices.probed(device, self._measures.link(workers[device]))

    def _look_at(self, workers: Workers) -> None:
        rounds = self.rounds
        reports = rounds.link_reports() if rounds is not None else {}
        times = rounds.own_times if rounds is not None else DecodeTimes(0)
        between = rounds.between if rounds is not None else RootClock()
        self._devices.root(self._memory.limits(), times, between)
        for device, worker in workers.items():
            self._devices.worker(device, worker, reports.get(device))


def _planned(found: Schedule, workers: Sequence[DeviceId]) -> Planned:
    """The root's and these workers' parts, by their numbers; nobody else has any."""
    places = {ROOT: 0} | {device: place for place, device in enumerate(workers, 1)}
    numbers = map(DeviceId, range(max(places) + 1))
    return Planned(found.plan.of_places([places.get(d) for d in numbers]), _words(found))


def _of(plan: Plan, workers: Sequence[DeviceId]) -> Plan:
    """The other way round."""
    here = range(plan.n_devices)
    return plan.of_places([d if d in here else None for d in (ROOT, *workers)])


def _words(found: Schedule) -> str:
    words = f"predicted TPOT {found.prediction.tpot_s * 1e3:.0f} ms"
    if found.left_out:
        words += f"; without {', '.join(out.name for out in found.left_out)}"
        with_s = min((out.tpot_s or math.inf for out in found.left_out), default=math.inf)
        if found.prediction.tpot_s < with_s < math.inf:
            words += f" (with: {with_s * 1e3:.0f} ms or more)"
    return words

"""What is known of a session, put together for people and for metrics: plain values at one moment.

Any thread may ask while rounds go on: what is read here is replaced as a whole by those who write
it, or copied in one go. Nothing here waits, or asks a worker.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from halo_edge.cluster.messages import WorkerInfo
from halo_edge.cluster.planner import ROOT_NAME, shares_in_words
from halo_edge.cluster.relaxation import Spent
from halo_edge.cluster.speed import DecodeTimes
from halo_edge.plan.model_shape import ModelShape
from halo_edge.plan.plan import Plan
from halo_edge.sync.ids import ROOT, DeviceId
from halo_edge.sync.peer import LinkReport


class State(Enum):
    """What a device is doing in a session. LEFT_OUT: it is there, and has no share in the plan.
    AWAY: it is silent, and computed for. LEFT: it has gone from the cluster."""

    IN_USE = "in use"
    LEFT_OUT = "left out"
    LOADING = "loading"
    AWAY = "away"
    LEFT = "left"


@dataclass(frozen=True)
class DeviceOverview:
    """`groups`: of neurons, of every layer, in the plan in use or about to be; `share`: of all.
    `held_bytes`: weights of the FFN that it keeps in memory for that; `memory_bytes`: it may use;
    None: nobody says. `compute_s`: its FFN takes for one token in all layers, by the clock, and
    `compute_cpu_s` in CPU time of a thread; None: not known yet. Chunks since the session began;
    `late`: of those filled or taken over, the ones that came after all. `went_away`: times. `link`:
    None for the root, and for one that takes no part in rounds."""

    number: int
    name: str
    host: str
    state: State
    groups: range
    share: float
    held_bytes: int
    memory_bytes: int | None
    threads: int
    compute_s: float | None
    link: LinkReport | None = None
    filled: int = 0
    taken_over: int = 0
    recovered: int = 0
    late: int = 0
    went_away: int = 0
    compute_cpu_s: float | None = None


@dataclass(frozen=True)
class Overview:
    """`devices`: the root first. `plan`: its shares, in words. `budget_fullness`: 0 ... 1; None
    where nothing is relaxed."""

    devices: tuple[DeviceOverview, ...]
    plan: str
    spent: Spent
    budget_fullness: float | None


class Rounds(Protocol):
    """What is asked of a session's rounds, `RoundsFfn`."""

    @property
    def own_times(self) -> DecodeTimes: ...

    @property
    def budget_fullness(self) -> float | None: ...

    def spent(self) -> Spent: ...

    def recovered_by_device(self) -> Mapping[int, int]: ...

    def link_reports(self) -> Mapping[DeviceId, LinkReport]: ...


@dataclass(frozen=True)
class Own:
    """What the root may use."""

    host: str
    threads: int
    memory_bytes: int | None


@dataclass(frozen=True)
class Members:
    """The workers of a session. `known`: all that are or were there, as they say they are. `ready`:
    in use; `loading`: about to be; `away`: silent. `left`: the names of those that have gone."""

    known: Mapping[DeviceId, WorkerInfo]
    ready: Collection[DeviceId]
    loading: Collection[DeviceId]
    away: Collection[DeviceId]
    left: Collection[str]

    def state(self, device: DeviceId, share: range) -> State:
        """`share`: of the plan in use or about to be."""
        if self.known[device].worker in self.left:
            return State.LEFT
        if device in self.ready and share:
            return State.AWAY if device in self.away else State.IN_USE
        return State.LOADING if share or device in self.loading else State.LEFT_OUT


def overview_of(
    plan: Plan,
    shape: ModelShape,
    members: Members,
    rounds: Rounds,
    late: Mapping[DeviceId, int],
    own: Own,
) -> Overview:
    """`shape`: of the model, `plan`: in use or about to be. `late`: chunks by device."""
    links, spent, recovered = rounds.link_reports(), rounds.spent(), rounds.recovered_by_device()
    layers = shape.n_layers

    def groups(device: DeviceId) -> range:
        return plan.shares[device] if device < plan.n_devices else range(0)

    def held_bytes(device: DeviceId) -> int:
        resident = plan.resident_on(device) if groups(device) else ()
        return int(len(resident) * shape.group_bytes)

    root = DeviceOverview(
        number=ROOT,
        name=ROOT_NAME,
        host=own.host,
        state=State.IN_USE,
        groups=groups(ROOT),
        share=len(groups(ROOT)) / plan.n_groups,
        held_bytes=held_bytes(ROOT),
        memory_bytes=own.memory_bytes,
        threads=own.threads,
        compute_s=_compute_s(rounds.own_times.rounds, rounds.own_times.wall_s, layers),
        compute_cpu_s=_compute_s(rounds.own_times.rounds, rounds.own_times.cpu_s, layers),
    )
    workers = [
        DeviceOverview(
            number=device,
            name=worker.worker,
            host=worker.host,
            state=members.state(device, groups(device)),
            groups=groups(device),
            share=len(groups(device)) / plan.n_groups,
            held_bytes=held_bytes(device),
            memory_bytes=worker.memory_bytes,
            threads=worker.threads,
            compute_s=_compute_s(worker.decode.rounds, worker.decode.wall_s, layers),
            link=links.get(device),
            filled=spent.filled_by_device.get(device, 0),
            taken_over=spent.taken_over_by_device.get(device, 0),
            recovered=recovered.get(device, 0),
            late=late.get(device, 0),
            went_away=spent.away.get(device, 0),
            compute_cpu_s=_compute_s(worker.decode.rounds, worker.decode.cpu_s, layers),
        )
        for device, worker in sorted(members.known.items())
    ]
    names = {DeviceId(device.number): device.name for device in (root, *workers)}
    words = shares_in_words(plan, names)
    return Overview((root, *workers), words, spent, rounds.budget_fullness)


def _compute_s(rounds: int, layer_s: float, layers: int) -> float | None:
    return layer_s * layers if rounds else None

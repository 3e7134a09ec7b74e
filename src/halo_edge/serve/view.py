"""What is known of a served session, in the units in which people read it.

Plain values, made when somebody asks and not before. Nothing here knows HTTP.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from halo_edge.cluster.overview import DeviceOverview, State
from halo_edge.cluster.planner import ROOT_NAME
from halo_edge.cluster.relaxation import Spent
from halo_edge.cluster.session import Session
from halo_edge.serve.events import Event, Events
from halo_edge.serve.request import Load
from halo_edge.sync.ids import ROOT

# In the engine's thread: who is silent is looked at not more often.
LOOK_S: Final = 0.25
_MILLION: Final = 1e6


@dataclass(frozen=True)
class DeviceView:
    """`share`: of the neuron groups, 0 ... 1; `first_group`, `groups`: which. `held_mb`: weights of
    the FFN in its memory, of `memory_mb` that it may use. `rtt_ms`: of the link; `answer_ms`: from
    x to its partial; `plr_to`, `plr_from`: packet-loss rates, 0 ... 1. `compute_ms`: of its FFN, a
    token in all layers. None: not known, or not yet. Chunks since the session began."""

    number: int
    name: str
    host: str
    state: State
    share: float
    first_group: int
    groups: int
    held_mb: float
    memory_mb: float | None
    threads: int
    compute_ms: float | None
    rtt_ms: float | None
    answer_ms: float | None
    plr_to: float | None
    plr_from: float | None
    copies_to: int | None
    copies_from: int | None
    recovered: int
    filled: int
    taken_over: int
    late: int
    went_away: int


@dataclass(frozen=True)
class SpentView:
    """Since the session began. Chunks of partials; `nats`: predicted."""

    rounds: int
    recovered: int
    filled: int
    taken_over: int
    nats: float


@dataclass(frozen=True)
class ClusterView:
    """`tpot_ms`, `bound_ms`: predicted for the plan in use, and that which no plan can beat; None
    without a scheduler. `budget`: how full the emptiest budget is, 0 ... 1; None where nothing is
    relaxed. `events`: the newest last."""

    model: str
    layers: int
    groups: int
    devices: tuple[DeviceView, ...]
    plan: str
    tpot_ms: float | None
    bound_ms: float | None
    spent: SpentView
    budget: float | None
    load: Load
    events: tuple[Event, ...]


class View:
    """Of one session, which it is not to outlive."""

    def __init__(
        self, session: Session, model: str, events: Events, load: Callable[[], Load]
    ) -> None:
        """`model`: its name. `events` is told what the session's `tell` is; the rest it is told
        from here."""
        self._session = session
        self._model = model
        self._events = events
        self._load = load
        self._look_at = 0.0
        self._threads = session.model.runtime.threads
        if session.cluster is not None:
            session.cluster.noticed = events.noticed

    def look(self) -> None:
        """Between steps, in the thread that computes them: note who is silent."""
        now, cluster = time.monotonic(), self._session.cluster
        if cluster is None or now < self._look_at:
            return
        self._look_at = now + LOOK_S
        members = cluster.members
        away = [members[device] for device in cluster.away if device in members]
        self._events.away(away, members.values())

    def hear(self) -> None:
        """Ask the workers how they are; may take seconds."""
        if self._session.cluster is not None:
            self._session.cluster.hear()

    def now(self) -> ClusterView:
        """Any thread may ask."""
        cluster, params = self._session.cluster, self._session.model.params
        if cluster is None:
            return ClusterView(
                model=self._model,
                layers=params.n_layers,
                groups=1,
                devices=(_alone(self._threads),),
                plan=f"{ROOT_NAME} 100 %",
                tpot_ms=None,
                bound_ms=None,
                spent=_spent(Spent()),
                budget=None,
                load=self._load(),
                events=self._events.recent(),
            )
        overview, outlook = cluster.overview(), cluster.outlook
        return ClusterView(
            model=self._model,
            layers=params.n_layers,
            groups=cluster.packing.partition.n_groups,
            devices=tuple(map(_device, overview.devices)),
            plan=overview.plan,
            tpot_ms=None if outlook is None else _ms(outlook.tpot_s),
            bound_ms=None if outlook is None else _ms(outlook.bound_s),
            spent=_spent(overview.spent),
            budget=_rounded(overview.budget_fullness, 3),
            load=self._load(),
            events=self._events.recent(),
        )


def _device(device: DeviceOverview) -> DeviceView:
    link = device.link
    return DeviceView(
        number=device.number,
        name=device.name,
        host=device.host,
        state=device.state,
        share=round(device.share, 4),
        first_group=device.groups.start,
        groups=len(device.groups),
        held_mb=round(device.held_bytes / _MILLION, 1),
        memory_mb=None if device.memory_bytes is None else round(device.memory_bytes / _MILLION),
        threads=device.threads,
        compute_ms=_ms(device.compute_s),
        rtt_ms=None if link is None else _ms(link.srtt_s),
        answer_ms=None if link is None else _ms(link.answer_s),
        plr_to=None if link is None else _rounded(link.loss_to, 4),
        plr_from=None if link is None else _rounded(link.loss_from, 4),
        copies_to=None if link is None else link.copies_to,
        copies_from=None if link is None else link.copies_from,
        recovered=device.recovered,
        filled=device.filled,
        taken_over=device.taken_over,
        late=device.late,
        went_away=device.went_away,
    )


def _alone(threads: int) -> DeviceView:
    """The root, where it is the only device."""
    own = DeviceOverview(ROOT, ROOT_NAME, "", State.IN_USE, range(1), 1.0, 0, None, threads, None)
    return _device(own)


def _spent(spent: Spent) -> SpentView:
    return SpentView(
        rounds=spent.rounds,
        recovered=spent.chunks_recovered,
        filled=spent.chunks_filled,
        taken_over=spent.chunks_taken_over,
        nats=round(spent.nats, 6),
    )


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1e3, 3)


def _rounded(value: float | None, digits: int) -> float | None:
    return None if value is None else round(value, digits)

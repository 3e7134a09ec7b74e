"""Who makes a session's plans: shares that somebody asked for, or the scheduler (`scheduling`)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, Protocol

from halo_edge.cluster.messages import WorkerInfo
from halo_edge.errors import HaloError
from halo_edge.plan.admission import GONE_AFTER_S
from halo_edge.plan.memory import groups_in, residents, streamable, tile_groups
from halo_edge.plan.model_shape import ModelShape
from halo_edge.plan.plan import Plan, split
from halo_edge.plan.replicas import inherited, replicas
from halo_edge.sync.ids import ROOT, DeviceId

Workers = Mapping[DeviceId, WorkerInfo]

ROOT_NAME: Final = "root"
"""What the root is called among the names of workers."""

INHERITED: Final = "from replicas"
"""What is to be said of a plan that moves nothing."""


@dataclass(frozen=True)
class Planned:
    """`plan`: by the session's numbers of devices, in which there are gaps where workers have left.
    `words`: what there is to say of it, for people; empty: nothing."""

    plan: Plan
    words: str = ""


class Planner(Protocol):
    """One thread asks."""

    def plan(self, workers: Workers) -> Planned:
        """For the root and these. Raises `HaloError` where there is no plan."""
        ...

    def inherited(self, plan: Plan, workers: Workers) -> Planned | None:
        """`plan`, which is in use, without those of its workers that are not among these; None
        where others would have to load something for it. Nobody is asked anything."""
        ...

    def better(self, plan: Plan, workers: Workers, now: float) -> Planned | None:
        """Another one than `plan`, which is in use with these workers, if it is time for that. To
        be asked every second or so. Raises `HaloError`."""
        ...

    def planned(self, now: float) -> None:
        """A plan was carried out, or could not be."""
        ...


class FixedShares:
    """The shares that were asked for, by device; without those, alike for all who are there. What
    does not fit in a worker's memory is read from disk."""

    def __init__(self, shape: ModelShape, weights: Sequence[float] | None, copies: int = 0) -> None:
        """`copies`: how many other workers are to hold each worker's groups."""
        self._shape = shape
        self._weights = weights
        self._copies = copies
        self._planned_at = math.inf

    def plan(self, workers: Workers) -> Planned:
        """Raises `HaloError` for shares that leave nobody with any, or a worker with more than it
        can read."""
        weights = [0.0] * (max(workers, default=0) + 1)
        for device in (ROOT, *workers):
            if self._weights is None:
                weights[device] = 1.0
            elif device < len(self._weights):
                weights[device] = self._weights[device]
        plan = split(self._shape.partition.n_groups, weights)
        capacity = self._capacity(workers, plan.n_devices)
        for device, worker in workers.items():
            self._check(worker, len(plan.shares[device]), capacity[device])
        plan = replace(plan, resident=residents(plan.shares, capacity, self._shape))
        return Planned(self._with_replicas(plan, capacity))

    def inherited(self, plan: Plan, workers: Workers) -> Planned | None:
        """See `Planner`."""
        found = inherited(plan, gone(plan, workers), tile_groups(self._shape))
        if found is None:
            return None
        capacity = self._capacity(workers, found.n_devices)
        return Planned(self._with_replicas(found, capacity), INHERITED)

    def _capacity(self, workers: Workers, n_devices: int) -> list[int]:
        """In groups."""
        n_groups = self._shape.partition.n_groups
        capacity = [n_groups] * n_devices
        for device, worker in workers.items():
            if worker.memory_bytes is not None:
                capacity[device] = groups_in(worker.memory_bytes, self._shape)
        return capacity

    def _with_replicas(self, plan: Plan, capacity: Sequence[int]) -> Plan:
        held = replicas(plan.shares, capacity, tile_groups(self._shape), self._copies)
        return replace(plan, replicas=held)

    def _check(self, worker: WorkerInfo, share: int, fits: int) -> None:
        if share > max(fits, streamable(fits, self._shape)):
            raise HaloError(
                f"worker {worker.worker} has too little memory for its share, even if it reads "
                f"most of it from disk; give it a smaller one with --split, or more with --memory"
            )

    def better(self, plan: Plan, workers: Workers, now: float) -> Planned | None:
        """The shares that were asked for, after some time with others, which were inherited."""
        if now < self._planned_at + GONE_AFTER_S:
            return None
        asked = self.plan(workers)
        return asked if shares_of(asked.plan) != shares_of(plan) else None

    def planned(self, now: float) -> None:
        self._planned_at = now


def gone(plan: Plan, workers: Workers) -> list[int]:
    """The workers of `plan` that are not among these."""
    return [d for d in plan.workers if d not in workers]


def shares_of(plan: Plan) -> dict[int, range]:
    """By device, of those that have any."""
    return {device: share for device, share in enumerate(plan.shares) if share}


def check_split(weights: Sequence[float] | None, n_workers: int) -> None:
    """Raises `HaloError` for shares that are not one for each device."""
    if weights is not None and len(weights) != n_workers + 1:
        raise HaloError(
            f"--split names {len(weights)} shares, but there are {n_workers + 1} devices "
            f"(the root and {n_workers} workers)"
        )


def shares_in_words(plan: Plan, names: Mapping[DeviceId, str]) -> str:
    """As people read them."""
    shares = ((DeviceId(d), len(share)) for d, share in enumerate(plan.shares) if share)
    return ", ".join(f"{names[d]} {100 * n / plan.n_groups:.0f} %" for d, n in shares)

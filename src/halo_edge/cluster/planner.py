"""Who makes a session's plans: shares that somebody asked for, or the scheduler (`scheduling`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from halo_edge.cluster.messages import WorkerInfo
from halo_edge.errors import HaloError
from halo_edge.plan.memory import groups_in, residents, streamable
from halo_edge.plan.model_shape import ModelShape
from halo_edge.plan.plan import Plan, split
from halo_edge.sync.ids import ROOT, DeviceId

Workers = Mapping[DeviceId, WorkerInfo]


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

    def __init__(self, shape: ModelShape, weights: Sequence[float] | None) -> None:
        self._shape = shape
        self._weights = weights

    def plan(self, workers: Workers) -> Planned:
        """Raises `HaloError` for shares that leave nobody with any, or a worker with more than it
        can read."""
        weights = [0.0] * (max(workers, default=0) + 1)
        for device in (ROOT, *workers):
            if self._weights is None:
                weights[device] = 1.0
            elif device < len(self._weights):
                weights[device] = self._weights[device]
        n_groups = self._shape.partition.n_groups
        plan, capacity = split(n_groups, weights), [n_groups] * len(weights)
        for device, worker in workers.items():
            if worker.memory_bytes is not None:
                capacity[device] = groups_in(worker.memory_bytes, self._shape)
                self._check(worker, len(plan.shares[device]), capacity[device])
        return Planned(replace(plan, resident=residents(plan.shares, capacity, self._shape)))

    def _check(self, worker: WorkerInfo, share: int, fits: int) -> None:
        if share > max(fits, streamable(fits, self._shape)):
            raise HaloError(
                f"worker {worker.worker} has too little memory for its share, even if it reads "
                f"most of it from disk; give it a smaller one with --split, or more with --memory"
            )

    def better(self, plan: Plan, workers: Workers, now: float) -> None:
        """Never."""

    def planned(self, now: float) -> None:
        """It makes no difference."""


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

"""The scheduler: from devices and a model to a plan, and why it is what it is.

Pure: the same description gives the same plan. How many groups each device computes is a small
program (`program.py`); which groups is decided by sorting, and by this argument:

A device d that is lossy at first with probability q_d puts sum over g in S_d of q_d c_g nats a
token at stake, where c_g is what losing group g costs. With the sizes of all shares given, list for
every group the q of the device that holds it: the total at stake is the scalar product of that list
with the c_g, and which group lies where only permutes it. By the rearrangement inequality it is
least when one list falls where the other rises (if q_a < q_b and c_g < c_h with g on a and h on b,
exchanging the two changes the total by (q_a - q_b)(c_h - c_g) < 0). So the most critical groups go
to the device whose partials are missing least, and so on down; the root, which never misses its
own, comes first. Time does not depend on which groups a device has, so nothing is given up for it.
What is at stake bounds what is spent: the damage of a plan is at most the budget, and what the
budget does not cover is waited for.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

from halo_edge.errors import HaloError
from halo_edge.plan.device import Cluster
from halo_edge.plan.memory import capacities, residents, tile_groups
from halo_edge.plan.plan import Plan, split
from halo_edge.plan.prediction import Prediction, Predictions
from halo_edge.plan.program import Kind, Program
from halo_edge.plan.replicas import replicas
from halo_edge.plan.workload import Workload

THINNED: Final = 4
"""Of so many workers one is left out at a time."""
MAX_ASKED: Final = 4
"""For so many it is tried whether it is better with them, and for so many, without."""
WORTH: Final = 0.001
"""A plan that is better by less is not another one."""


class Objective(StrEnum):
    """What is to be least: TPOT, TTFT, or the time of prompt and answer together."""

    TPOT = "tpot"
    TTFT = "ttft"
    MIX = "mix"


@dataclass(frozen=True)
class LeftOut:
    """A worker without groups. `tpot_s`: what is predicted if it had one; None: it has no room for
    it."""

    name: str
    tpot_s: float | None


@dataclass(frozen=True)
class Schedule:
    """`plan`'s devices are those of `cluster`, in its order."""

    cluster: Cluster
    plan: Plan
    prediction: Prediction
    left_out: tuple[LeftOut, ...]


def schedule(
    cluster: Cluster,
    workload: Workload,
    objective: Objective = Objective.TPOT,
    between: Callable[[], object] = lambda: None,
) -> Schedule:
    """`between` is called after each of the programs that are solved, some milliseconds of
    computing: who has something better to do may do it then.

    Raises `HaloError` where the devices together cannot hold the model."""
    return _Search(cluster, workload, objective, between).run()


@dataclass(frozen=True)
class _Candidate:
    plan: Plan
    cost_s: float


class _Search:
    def __init__(
        self,
        cluster: Cluster,
        workload: Workload,
        objective: Objective,
        between: Callable[[], object],
    ) -> None:
        self._cluster, self._workload, self._objective = cluster, workload, objective
        self._between = between
        self._predictions = Predictions(cluster, workload)
        self._capacity = capacities(cluster, workload)
        losses, workers = self._predictions.losses, range(1, len(cluster.devices))
        self._copies = losses.best_copies()
        missing = [0.0, *(losses.missing(d, self._copies[d]) for d in workers)]
        self._reliable = sorted(workers, key=lambda d: missing[d])
        self._program = Program(
            self._predictions, _kinds(workload, objective), self._capacity, self._copies
        )
        self._n_groups = workload.shape.partition.n_groups
        costs = self._program.costs_s
        self._burden_s = [
            burden_s + (losses.alone_s(d, self._copies[d]) if d else 0.0)
            for d, burden_s in enumerate(costs)
        ]
        """What each worker costs all others, a round."""

    def run(self) -> Schedule:
        best = self._thinned()
        while (better := self._exchanged(best)) is not None:
            best = better
        idle = [d for d in self._reliable if not best.plan.shares[d]]
        tile = tile_groups(self._workload.shape)
        spare = replicas(best.plan.shares, self._capacity, tile, self._workload.replicas)
        left_out = tuple(
            LeftOut(self._cluster.devices[d].name, self._with_one_group(best.plan, d))
            for d in sorted(idle)
        )
        plan = replace(best.plan, replicas=spare)
        return Schedule(self._cluster, plan, self._predictions.of(plan), left_out)

    def _thinned(self) -> _Candidate:
        """The best that is met on the way from all workers to none, leaving out those first that
        cost the others most for each group they take off them. An equal split is looked at too."""
        found = []
        equal = [len(share) for share in split(self._n_groups, [1.0] * len(self._capacity)).shares]
        if all(count <= most for count, most in zip(equal, self._program.most, strict=True)):
            found.append(self._candidate(equal))
        workers = [d for d in self._reliable if self._program.most[d]]
        workers = sorted(workers, key=lambda d: self._burden_s[d])[: self._n_groups]
        while (best := self._best_with(workers)) is not None:
            found.append(best)
            if not workers:
                break
            counts = [max(1, len(share)) for share in best.plan.shares]
            workers.sort(key=lambda d: (self._burden_s[d] / counts[d], d))
            fewer = max(1, len(workers) // THINNED)
            while fewer > 1 and self._room(workers[:-fewer]) < self._n_groups:
                fewer //= 2
            del workers[-fewer:]
        if not found:
            room = self._room(self._reliable)
            raise HaloError(
                f"the devices have memory for {room} of the {self._n_groups} neuron groups of "
                f"{self._workload.shape.name}; add devices, memory, or storage to read weights from"
            )
        return min(found, key=lambda candidate: candidate.cost_s)

    def _room(self, workers: Sequence[int]) -> int:
        """The groups that these, and the root, can have."""
        return self._program.most[0] + sum(self._program.most[d] for d in workers)

    def _exchanged(self, best: _Candidate) -> _Candidate | None:
        """A better one with one worker more, or one less; None if there is none to be found."""
        counts = [len(share) for share in best.plan.shares]
        active = sorted(best.plan.workers, key=lambda d: -self._burden_s[d] / counts[d])
        idle = [d for d in self._reliable if not counts[d] and self._program.most[d]]
        idle.sort(key=lambda d: self._program.nearest_s[d])
        for d in (*idle[:MAX_ASKED], *active[:MAX_ASKED]):
            workers = {*active, d} if d in idle else {*active} - {d}
            other = self._best_with(workers)
            if other is not None and other.cost_s < (1 - WORTH) * best.cost_s:
                return other
        return None

    def _best_with(self, workers: Collection[int]) -> _Candidate | None:
        """What the program finds where these take part; None if there is no way. Reading weights
        costs more than it knows of, so it is also asked for a plan without."""
        program = self._program
        limits = [program.most]
        if program.most != program.capacity:
            limits.append(program.capacity)
        solved = [program.solve(sorted(workers), most) for most in limits]
        candidates = [self._candidate(counts) for counts in solved if counts is not None]
        self._between()
        return min(candidates, key=lambda candidate: candidate.cost_s, default=None)

    def _candidate(self, counts: Sequence[int]) -> _Candidate:
        plan = self._plan(counts)
        return _Candidate(plan, self._cost_s(plan))

    def _plan(self, counts: Sequence[int]) -> Plan:
        """So many groups each: the most critical on the root, then on the most reliable workers."""
        shares = [range(0)] * len(counts)
        begin = 0
        for d in (0, *self._reliable):
            shares[d] = range(begin, begin + counts[d])
            begin += counts[d]
        stay = residents(shares, self._capacity, self._workload.shape)
        return Plan(tuple(shares), self._copies, stay)

    def _with_one_group(self, plan: Plan, d: int) -> float | None:
        """TPOT if the device takes one group over from whoever has most."""
        if not self._program.most[d]:
            return None
        counts = [len(share) for share in plan.shares]
        counts[counts.index(max(counts))] -= 1
        counts[d] += 1
        return self._predictions.tpot_s(self._plan(counts))

    def _cost_s(self, plan: Plan) -> float:
        predictions = self._predictions
        if self._objective is Objective.TPOT:
            return predictions.tpot_s(plan)
        if self._objective is Objective.TTFT:
            return predictions.ttft_s(plan)
        return predictions.ttft_s(plan) + self._workload.answer * predictions.tpot_s(plan)


def _kinds(workload: Workload, objective: Objective) -> list[Kind]:
    """The kinds of rounds that count, and how often one is made."""
    layers, steps = workload.shape.n_layers, workload.prefill_steps
    answered = 1.0 if objective is Objective.TPOT else float(workload.answer)
    kinds = []
    if objective is not Objective.TTFT:
        kinds.append(Kind(1, workload.context, layers * answered))
    if objective is not Objective.TPOT:
        kinds.append(Kind(steps[0], workload.prompt, float(layers * len(steps))))
    return kinds

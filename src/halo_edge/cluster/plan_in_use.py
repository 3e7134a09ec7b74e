"""The plan that a session's rounds follow, and how another takes its place: the workers load their
parts, the rounds going on meanwhile, and then the next step is one of the new epoch.

When there is to be another, and which, is the `Replanner`'s business.
"""

from __future__ import annotations

from halo_edge.cluster.epoch import Epoch
from halo_edge.cluster.epochs import Epochs
from halo_edge.cluster.planner import Workers
from halo_edge.cluster.root_end import RootEnd
from halo_edge.cluster.rounds_ffn import RoundsFfn
from halo_edge.plan.plan import Plan
from halo_edge.sync.ids import DeviceId


class PlanInUse:
    """`workers`: all that ever had a part. `loading`: those that are getting theirs ready."""

    def __init__(
        self,
        plan: Plan,
        workers: Workers,
        loading: frozenset[DeviceId],
        epochs: Epochs,
        end: RootEnd,
        rounds: RoundsFfn,
    ) -> None:
        """`plan`: of the epoch in which `rounds` begin."""
        self.plan = plan
        self.workers = workers
        self.loading = loading
        self._epochs = epochs
        self._end = end
        self._rounds = rounds

    def replace(self, plan: Plan, workers: Workers) -> None:
        """From a step soon after. Raises `HaloError` for a worker that cannot have its part."""
        workers = with_part(plan, workers)
        self.loading = frozenset(workers)
        try:
            epoch = self._epochs.make(plan, workers)
        finally:
            self.loading = frozenset()
        self._adopt(plan, workers, epoch)

    def replace_in_a_hurry(self, plan: Plan, workers: Workers) -> bool:
        """The same, but strict for now; whether `replace` would be more than that."""
        workers = with_part(plan, workers)
        self._adopt(plan, workers, self._epochs.make_strict(plan, workers))
        return self._epochs.relaxable

    def _adopt(self, plan: Plan, workers: Workers, epoch: Epoch) -> None:
        self._end.reach(workers)
        self.plan = plan
        self.workers = {**self.workers, **workers}
        self._rounds.adopt(epoch)
        left_out = (w for device, w in self.workers.items() if device not in workers)
        self._epochs.leave_out(left_out)


def with_part(plan: Plan, workers: Workers) -> Workers:
    """Those that have neurons: the others take no part in rounds."""
    return {device: workers[device] for device in map(DeviceId, plan.workers)}

"""When another plan is worth what it costs.

Devices slow down, links get worse, and what is measured moves about. Another plan moves weights,
which takes everybody's network and processors for a while; so there is one only for a gain that is
large enough, that lasts, and not often. Times are seconds of any clock that only goes forward.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Final, TypeAlias

from halo_edge.errors import HaloError
from halo_edge.plan.device import Cluster, Device
from halo_edge.plan.device_profile import DeviceProfile
from halo_edge.plan.plan import Plan
from halo_edge.plan.prediction import Prediction, Predictions
from halo_edge.plan.schedule import LeftOut, Objective, Schedule, schedule
from halo_edge.plan.workload import Workload

WORTH: Final = 0.2
"""The share of a token's time, at least, that another plan has to save. Predictions of one plan
move about by a tenth."""
SAFER: Final = 0.5
"""Another plan that takes no longer is also worth it if it leaves at most so much of the damage at
stake: the critical groups no longer on a device whose link has turned out to be bad."""
AT_STAKE: Final = 0.1
"""The share of the budget that has to be at stake for that."""
CHANGED: Final = 0.25
"""Devices that are the same but for so much are not planned for anew: it takes the root a tenth of
a second of computing, or half a second."""
CHANGED_SOON: Final = 0.5
SOON_S: Final = 5.0
"""Nor are those, so soon after they were, that are the same but for that: what rounds show of a new
plan takes them some seconds to learn."""
STEADY_S: Final = 6.0
"""A gain of `WORTH` has to last for so long; a larger one, for less."""
AGAIN_S: Final = 10.0
"""So long after a plan there may be the next; twice as long after each that followed so soon."""
MAX_AGAIN_S: Final = 60.0
HORIZON_S: Final = 60.0
"""A plan is given so long to earn what it costs."""
SLOWED: Final = 0.25
"""The share of the speed that is lost while weights move."""
MOVED_BYTES_PER_S: Final = 50e6
"""Where no link is slower: cut, hashed, written, repacked."""

_Known: TypeAlias = tuple[tuple[str, tuple[float, ...]], ...]


class Replanning:
    """Of one session, whose `workload` it is."""

    def __init__(self, workload: Workload, objective: Objective = Objective.TPOT) -> None:
        self.workload = workload
        self.between: Callable[[], object] = lambda: None
        """See `schedule`."""
        self._objective = objective
        self._gains_since = math.inf
        self._planned_at = -math.inf
        self._again_s = AGAIN_S
        self._found: dict[str, _Found] = {}

    def plan(self, cluster: Cluster) -> Schedule:
        """The best one. Raises `HaloError` where the devices together cannot hold the model."""
        return self._schedule("all", cluster, math.inf)

    def better(self, cluster: Cluster, plan: Plan, now: float) -> Schedule | None:
        """Another plan than `plan`, which is in use, if it is time for one. To be asked every
        second or so. Raises `HaloError` as `plan` does."""
        candidates = [self._schedule("all", cluster, now)]
        with contextlib.suppress(HaloError):  # those alone may be too few
            candidates.append(self._without_newcomers(cluster, plan, now))
        predictions = Predictions(cluster, self.workload)
        # Those that were found a while ago, too, from what is known now.
        candidates = [
            replace(
                each, cluster=cluster, prediction=predictions.of(predictions.as_sent(each.plan))
            )
            for each in candidates
        ]
        in_use = predictions.of(predictions.as_sent(plan))
        now_s = in_use.tpot_s
        costs = [self._cost_s(cluster, plan, now_s, each) for each in candidates]
        cost_s, found = min(zip(costs, candidates, strict=True), key=lambda pair: pair[0])
        gain = 1 - found.prediction.tpot_s / now_s if now_s < math.inf else 1.0
        saves = gain >= WORTH and cost_s < HORIZON_S
        if not saves:
            safer = [each for each in candidates if self._safer(in_use, each.prediction)]
            if not safer:
                self._gains_since = math.inf
                return None
            gain, found = WORTH, min(safer, key=lambda each: each.prediction.at_stake_nats)
        if self._gains_since == math.inf:
            self._gains_since = now
            return None
        steady = now - self._gains_since >= STEADY_S * (WORTH / gain)
        return found if steady and now - self._planned_at >= self._again_s else None

    def _safer(self, in_use: Prediction, other: Prediction) -> bool:
        """Only where damage may be done at all."""
        at_stake = in_use.at_stake_nats
        return (
            0 < AT_STAKE * self.workload.kl_budget <= at_stake
            and other.at_stake_nats <= SAFER * at_stake
            and other.tpot_s <= in_use.tpot_s
        )

    def _cost_s(self, cluster: Cluster, plan: Plan, now_s: float, other: Schedule) -> float:
        """How long what takes `HORIZON_S` now would take, with moving to the other plan."""
        share = other.prediction.tpot_s / now_s if now_s < math.inf else 0.0
        return share * HORIZON_S + SLOWED * moving_s(cluster, self.workload, plan, other.plan)

    def _without_newcomers(self, cluster: Cluster, plan: Plan, now: float) -> Schedule:
        """The best with devices that hold something already: less has to move."""
        here = [0, *plan.workers]
        devices = tuple(cluster.devices[d] for d in here)
        found = self._schedule("here", replace(cluster, devices=devices), now)
        places = {d: place for place, d in enumerate(here)}
        whole = found.plan.of_places([places.get(d) for d in range(plan.n_devices)])
        idle = [LeftOut(cluster.devices[d].name, None) for d in range(plan.n_devices)[1:]]
        left_out = [each for each, share in zip(idle, whole.shares[1:], strict=True) if not share]
        return Schedule(cluster, whole, found.prediction, tuple(left_out))

    def _schedule(self, which: str, cluster: Cluster, now: float) -> Schedule:
        """`now`: infinite where the last look is long ago, or does not count."""
        known = tuple((device.name, _numbers(device)) for device in cluster.devices)
        before = self._found.get(which)
        if before is not None:
            soon = now - before.at_s < SOON_S
            if not _changed(before.known, known, CHANGED_SOON if soon else CHANGED):
                return before.schedule
        found = schedule(cluster, self.workload, self._objective, self.between)
        self._found[which] = _Found(known, found, now if now < math.inf else -math.inf)
        return found

    def relax(self, kl_budget: float) -> None:
        """Another budget, in nats a token."""
        self.workload = replace(self.workload, kl_budget=kl_budget)
        self._found = {}

    def planned(self, now: float) -> None:
        """There is another plan, for whatever reason, or one was tried."""
        soon = now - self._planned_at < 2 * self._again_s
        self._again_s = min(2 * self._again_s, MAX_AGAIN_S) if soon else AGAIN_S
        self._planned_at, self._gains_since = now, math.inf


@dataclass(frozen=True)
class _Found:
    """A plan for devices of which that was known; `at_s`: when it was looked for."""

    known: _Known
    schedule: Schedule
    at_s: float


@dataclass(frozen=True)
class Moved:
    """Groups that a device gets, and has not had."""

    device: int
    groups: int


def moved(before: Plan, after: Plan) -> list[Moved]:
    """What each worker has to load that it does not hold. Both plans are of the same devices."""
    found = []
    for d in range(1, after.n_devices):
        held = {group for run in before.replicas_on(d) for group in run}
        new = {*after.shares[d]} - {*before.shares[d]} - held
        if new:
            found.append(Moved(d, len(new)))
    return found


def moving_s(cluster: Cluster, workload: Workload, before: Plan, after: Plan) -> float:
    """How long the weights are under way: from the root, whose link all share."""
    nbytes = {
        each.device: each.groups * workload.shape.group_bytes for each in moved(before, after)
    }
    rates: Mapping[int, float] = {
        d: min(cluster.devices[d].link.down.bytes_per_s, MOVED_BYTES_PER_S) for d in nbytes
    }
    root = min(cluster.root.link.up.bytes_per_s, MOVED_BYTES_PER_S)
    slowest_s = max((nbytes[d] / rates[d] for d in nbytes), default=0.0)
    return max(slowest_s, sum(nbytes.values()) / root)


def _numbers(device: Device) -> tuple[float, ...]:
    """What of a device a plan depends on. Small numbers, of which a change does not matter, are
    added to something."""
    up, down, profile = device.link.up, device.link.down, device.profile
    return (
        device.quota * profile.memory_bytes_per_s,
        profile.attention_s + 1e-3,
        profile.token_s + 1e-2,
        _protocol_s(profile) + 1e-4,
        float(device.memory_bytes or 0),
        device.storage_bytes_per_s or 0.0,
        *(way.delay_s + 1e-3 for way in (up, down)),
        *(1 / way.bytes_per_s + 1e-6 for way in (up, down)),
        *(way.loss + 0.05 for way in (up, down)),
    )


def _protocol_s(profile: DeviceProfile) -> float:
    """What a round of a datagram each way takes, at the root or a worker."""
    once_s = profile.encode_s + profile.round_s + profile.serve_s + profile.add_s + profile.wake_s
    return once_s + profile.seal_s + profile.send_s + profile.receive_s


def _changed(before: _Known, after: _Known, least: float) -> bool:
    """Whether anything is another by more than that share of it."""
    if [name for name, _ in before] != [name for name, _ in after]:
        return True
    return any(
        abs(a - b) > least * max(abs(a), abs(b))
        for (_, old), (_, new) in zip(before, after, strict=True)
        for a, b in zip(old, new, strict=True)
    )

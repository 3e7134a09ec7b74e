"""What a plan is predicted to bring: TPOT and TTFT, what they consist of, and the damage.

docs/planning.md has the formulas, and says what they leave out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from halo_edge.plan.device import Cluster
from halo_edge.plan.losses import Losses
from halo_edge.plan.plan import Plan
from halo_edge.plan.step import Part, Step, Steps
from halo_edge.plan.timeline import Timelines
from halo_edge.plan.workload import Workload

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class DeviceShare:
    """A device's part of a decoded token, all layers together. `share`: of the neuron groups.
    `link_s`: datagrams under way; `load_s`: weights read from storage; `wait_s`: what its link's
    losses alone would cost; `damage_nats`: of what is gone on without."""

    name: str
    groups: int
    share: float
    compute_s: float
    link_s: float
    load_s: float
    wait_s: float
    damage_nats: float


@dataclass(frozen=True)
class Prediction:
    """`parts`: of TPOT, which they add up to. `waited_for`: the device whose part is there last.
    `damage_nats`: predicted, a token, from what is gone on without within the budget;
    `at_stake_nats`: if nothing that is lost were waited for."""

    tpot_s: float
    ttft_s: float
    parts: Mapping[Part, float]
    waited_for: str
    devices: tuple[DeviceShare, ...]
    damage_nats: float
    at_stake_nats: float

    @property
    def bottleneck(self) -> Part:
        """The largest part."""
        return max(self.parts, key=lambda part: self.parts[part])


class Predictions:
    """Of plans for a cluster and a workload. A plan of another number of devices or groups is a
    ValueError."""

    def __init__(self, cluster: Cluster, workload: Workload) -> None:
        self.cluster, self.workload = cluster, workload
        self.timelines = Timelines(cluster, workload)
        self.losses = Losses(self.timelines)
        self._steps = Steps(self.timelines)

    def of(self, plan: Plan) -> Prediction:
        self._check(plan)
        waits_s, at_stake = self._waits_s(plan), self._at_stake(plan)
        given_up = _given_up(at_stake, waits_s, self.workload.kl_budget)
        decode = self._decode(plan, given_up)
        damage = (at_stake * given_up).sum(axis=0)
        return Prediction(
            tpot_s=decode.seconds,
            ttft_s=self.ttft_s(plan),
            parts=decode.parts,
            waited_for=self.cluster.devices[decode.waited_for].name,
            devices=tuple(
                self._share(plan, d, float(waits_s[d]), float(damage[d]))
                for d in range(plan.n_devices)
            ),
            damage_nats=float(damage.sum()),
            at_stake_nats=float(at_stake.sum()),
        )

    def as_sent(self, plan: Plan) -> Plan:
        """With chunks travelling as often as is best on the links as they are: rounds in use see to
        that by themselves."""
        return replace(plan, copies=self.losses.best_copies())

    def tpot_s(self, plan: Plan) -> float:
        """Without the rest."""
        self._check(plan)
        given_up = np.zeros((1, plan.n_devices))
        if self.workload.kl_budget > 0 and self.workload.criticality is not None:
            waits_s, at_stake = self._waits_s(plan), self._at_stake(plan)
            given_up = _given_up(at_stake, waits_s, self.workload.kl_budget)
        return self._decode(plan, given_up).seconds

    def ttft_s(self, plan: Plan) -> float:
        """Without the rest. What is lost of a prompt is waited for."""
        self._check(plan)
        nothing = [0.0] * plan.n_devices
        context, total_s = 0, 0.0
        steps = self.workload.prefill_steps
        for i, tokens in enumerate(steps, 1):
            context += tokens
            step = self._steps.step(plan, tokens, context, nothing, logits=i == len(steps))
            total_s += step.seconds
        return total_s

    def _decode(self, plan: Plan, given_up: Floats) -> Step:
        share = [float(part) for part in given_up.mean(axis=0)]
        return self._steps.step(plan, 1, self.workload.context, share, logits=True)

    def _check(self, plan: Plan) -> None:
        n_devices, n_groups = len(self.cluster.devices), self.workload.shape.partition.n_groups
        if (plan.n_devices, plan.n_groups) != (n_devices, n_groups):
            raise ValueError("the plan is for another cluster, or another model")

    def _share(self, plan: Plan, d: int, wait_s: float, damage_nats: float) -> DeviceShare:
        groups, layers = len(plan.shares[d]), self.workload.shape.n_layers
        link_s = 0.0
        if d and groups:
            way = self.timelines.ways[d]
            for one, matrix in ((way.to, self.workload.x(1)), (way.back, self.workload.partial(1))):
                link_s += one.passes_s(matrix.datagrams) + matrix.nbytes / one.bytes_per_s
        return DeviceShare(
            name=self.cluster.devices[d].name,
            groups=groups,
            share=groups / plan.n_groups,
            compute_s=layers * self.timelines.compute_s(d, groups, 1),
            link_s=layers * link_s,
            load_s=self._steps.load_s(plan, d),
            wait_s=layers * wait_s,
            damage_nats=damage_nats,
        )

    def _waits_s(self, plan: Plan) -> Floats:
        """[devices]: what the losses of a link cost a round, if all are waited for."""
        waits_s = np.zeros(plan.n_devices)
        for d in plan.workers:
            waits_s[d] = self.losses.alone_s(d, plan.copies_on(d))
        return waits_s

    def _at_stake(self, plan: Plan) -> Floats:
        """[layers, devices]: the damage a token of going on without what is lost at first."""
        criticality = self.workload.criticality
        nats = np.zeros((self.workload.shape.n_layers, plan.n_devices))
        if criticality is not None:
            for d in plan.workers:
                missing = self.losses.missing(d, plan.copies_on(d))
                nats[:, d] = criticality.nats(plan.shares[d]) * missing
        return nats


def _given_up(at_stake: Floats, waits_s: Floats, budget: float) -> Floats:
    """[layers, devices], 0 ... 1: the share of losses that the root goes on without, for at most
    `budget` nats a token: those first that save most waiting for a nat."""
    share = np.zeros_like(at_stake)
    if budget <= 0 or not at_stake.any():
        return share
    layers, devices = np.nonzero(np.broadcast_to(waits_s > 0, at_stake.shape))
    nats = at_stake[layers, devices]
    order = np.argsort(nats / waits_s[devices], kind="stable")
    left = budget - np.concatenate([[0.0], np.cumsum(nats[order])[:-1]])
    fits = np.divide(left, nats[order], out=np.ones_like(left), where=nats[order] > 0)
    share[layers[order], devices[order]] = np.clip(fits, 0.0, 1.0)
    return share

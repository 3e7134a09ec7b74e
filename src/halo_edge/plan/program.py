"""How many groups each device computes, as a small integer linear program (HiGHS).

All layers are alike, so a device's number of groups is one variable. For the devices that take
part, and each kind of round k that counts (a decoded token's, a prefill step's):

    minimise  sum_k w_k T_k
    such that S_k + l_kd + c_kd n_d + sum_{e after d} g_ke <= T_k
              S_k + l_k0 + c_k0 n_0 + sum_e g_ke <= T_k
              (b_kd + c_kd n_d) / q_d <= T_k + a_k
              (n_d - r_d) t_d <= T_k + a_k
              sum_d n_d = N,  1 <= n_d <= m_d  (0 <= n_0 <= m_0)

The rows say that a worker's partial, and those that come after it, are taken in by T_k; so are all
after the root's own part; and what CPU time and storage allow. n: groups; c: time of a group; l: of
everything else that a device does, and its link; S: of sending x to all; g: of taking a partial in;
b: CPU time beside groups; q: the quota; a: what the root does between rounds; r: groups that stay
in memory; t: time to read one; w: how often such a round is made. Devices that share cores have one
row more, for the time of all of them.

The coefficients are taken from `timeline.py` with one worker at a time, so the program is a linear
picture of it; what it finds is judged by the prediction itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from halo_edge.plan.device import SharedCores
from halo_edge.plan.memory import streamable
from halo_edge.plan.plan import Copies
from halo_edge.plan.prediction import Predictions
from halo_edge.plan.timeline import WINDOW_CHUNKS

Floats = NDArray[np.float64]

QUOTA_USED: Final = 0.9
"""Of its CPU time a device is given work for so much: it is throttled before all is used."""
GAP: Final = 0.005
"""Nearer to the optimum than that is not worth looking for: the model is not that exact."""
MS: Final = 1e3
"""The times T_k are in milliseconds: HiGHS takes what is below 1e-7 for nothing."""
MAX_NODES: Final = 10
"""Of the search tree; a count and not a time, so that a plan does not depend on the machine."""


@dataclass(frozen=True)
class Kind:
    """A kind of round: of so many tokens, looking at `context` cells, made `times` over."""

    tokens: int
    context: int
    times: float


@dataclass(frozen=True)
class _Coefficients:
    """Of a kind of round; arrays by device, the names as above."""

    slope: Floats  # c
    latency: Floats  # l
    send: Floats  # s
    gather: Floats  # g
    busy: Floats  # b
    between_s: float  # a
    x_waits: bool  # part of x goes only when the root has computed its own


class Program:
    """For a cluster and a workload, and any of its workers."""

    def __init__(
        self,
        predictions: Predictions,
        kinds: Sequence[Kind],
        capacity: Sequence[int],
        copies: Sequence[Copies],
    ) -> None:
        """`capacity`: the groups that fit in each device's memory. `most`, of the program: those
        that it may have, if it reads some from storage."""
        self._timelines = predictions.timelines
        self._devices = predictions.cluster.devices
        self._workload = predictions.workload
        self._kinds = kinds
        self.capacity, self._copies = capacity, copies
        self.n_groups = self._workload.shape.partition.n_groups
        self.most: Sequence[int] = [
            streamable(fits, self._workload.shape) if device.storage_bytes_per_s else fits
            for device, fits in zip(self._devices, capacity, strict=True)
        ]
        self._found = [self._coefficients(kind) for kind in kinds]

    @property
    def costs_s(self) -> list[float]:
        """What each worker costs the root in a round of the first kind: sent to and taken in."""
        return [float(s) for s in self._found[0].send + self._found[0].gather]

    @property
    def nearest_s(self) -> list[float]:
        """How long a round of the first kind takes each worker, with one group."""
        return [float(s) for s in self._found[0].latency + self._found[0].slope]

    def solve(self, workers: Sequence[int], most: Sequence[int]) -> list[int] | None:
        """How many groups each device computes, where these take part, and the root, none of them
        more than `most`; None where there is no way."""
        # Loading it takes half a second, which only who plans should wait for.
        from scipy.optimize import Bounds, LinearConstraint, milp

        active = [0, *workers]
        n, kinds = len(active), len(self._kinds)
        rows, upper = [], []
        for k, found in enumerate(self._found):
            for row, limit_s in self._rows(found, active):
                rows.append(np.concatenate([row * MS, -np.eye(kinds)[k]]))
                upper.append(limit_s * MS)
        low, high = np.zeros(n + kinds), np.full(n + kinds, np.inf)
        low[1:n] = 1
        high[:n] = [most[d] for d in active]
        if high[:n].sum() < self.n_groups or (low > high).any():
            return None
        times = [kind.times for kind in self._kinds]
        groups = np.concatenate([np.ones(n), np.zeros(kinds)])
        # What is not found in the first few nodes is looked for in all.
        for limit in ({"node_limit": MAX_NODES}, {}):
            answer = milp(
                np.concatenate([np.zeros(n), np.array(times) / max(times)]),
                integrality=groups,
                bounds=Bounds(low, high),
                constraints=[
                    LinearConstraint(np.array(rows), -np.inf, np.array(upper)),
                    LinearConstraint(groups, self.n_groups, self.n_groups),
                ],
                options={"mip_rel_gap": GAP} | limit,
            )
            if answer.x is not None:
                break
        else:
            return None
        counts = [0] * len(self._devices)
        for d, found_groups in zip(active, answer.x[:n], strict=True):
            counts[d] = round(found_groups)
        return counts

    def _rows(self, found: _Coefficients, active: Sequence[int]) -> list[tuple[Floats, float]]:
        """Rows over the groups of those that take part: what is there is at most T_k plus the
        seconds beside it."""
        n, layers = len(active), self._workload.shape.n_layers
        slope, gather = found.slope[active], found.gather[active]
        scattered_s = found.send[active].sum()
        own = slope[0] * np.eye(n)[0]
        rows = [(own, -(scattered_s + found.latency[0] + gather.sum()))]
        # Taken in: those that are near first, and of such that are alike the last, which has least.
        order = sorted(range(1, n), key=lambda i: (found.latency[active[i]], -i))
        after_s = gather.sum()
        for i in order:
            after_s -= gather[i]
            row = slope[i] * np.eye(n)[i] + (own if found.x_waits else 0.0)
            rows.append((row, -(scattered_s + found.latency[active[i]] + after_s)))
        shared: dict[SharedCores, tuple[Floats, float]] = {}
        for i, d in enumerate(active):
            device = self._devices[d]
            row = slope[i] * np.eye(n)[i]
            busy_s = found.busy[d]
            if d == 0:
                busy_s = scattered_s + found.latency[0] + gather.sum() + found.between_s
            if device.quota < 1:
                quota = QUOTA_USED * device.quota
                rows.append((row / quota, found.between_s - busy_s / quota))
            if device.cores is not None:
                others, others_s = shared.get(device.cores, (np.zeros(n), 0.0))
                shared[device.cores] = (others + row, others_s + busy_s)
            if device.storage_bytes_per_s and self.capacity[d] < self.n_groups:
                one_s = self._workload.shape.group_bytes / device.storage_bytes_per_s / layers
                fits_s = one_s * self.capacity[d]
                rows.append((one_s * np.eye(n)[i], found.between_s + fits_s))
        rows += [
            (row / cores.count, found.between_s - busy_s / cores.count)
            for cores, (row, busy_s) in shared.items()
        ]
        return rows

    def _coefficients(self, kind: Kind) -> _Coefficients:
        timelines, copies, n = self._timelines, self._copies, len(self._devices)
        root, x = timelines.costs[0], self._workload.x(kind.tokens)
        slope, latency, send, gather, busy = (np.zeros(n) for _ in range(5))
        for d in range(n):
            one_s, two_s = (timelines.compute_s(d, groups, kind.tokens) for groups in (1, 2))
            slope[d] = two_s - one_s if self.n_groups > 1 else one_s
            if d == 0:
                continue
            alone = [0] * n
            alone[d] = 1
            round_ = timelines.round(alone, copies, kind.tokens)
            partial = self._workload.partial(kind.tokens)
            pace_s = max(root.send_s, x.each_bytes / self._devices[0].link.up.bytes_per_s)
            send[d] = x.datagrams * pace_s * copies[d].x
            gather[d] = root.receive_s(partial.datagrams * copies[d].partial, partial.nbytes)
            latency[d] = round_.end_s - slope[d] - send[d]
            busy[d] = round_.busy_s[d] - slope[d]
        latency[0] = root.encode_s(kind.tokens) + root.round_s + root.seal_s(*x)
        return _Coefficients(
            slope,
            latency,
            send,
            gather,
            busy,
            root.attention_s(kind.tokens, kind.context)
            + (root.prepare_s(kind.tokens) + root.head_s()) / self._workload.shape.n_layers,
            x_waits=x.datagrams > WINDOW_CHUNKS,
        )

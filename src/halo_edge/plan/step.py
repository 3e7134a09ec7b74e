"""How long a step takes: a decoded token, or a part of the prompt.

Every layer costs the same, so a step is its rounds, and what the root does before, between and
after them. Where devices may not compute all the time, or read weights from storage, it takes at
least as long as they need for that.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from halo_edge.plan.device import SharedCores
from halo_edge.plan.losses import Losses, expected_end_s
from halo_edge.plan.plan import Plan
from halo_edge.plan.timeline import Timelines

UNPACKED: Final = 0.4
"""So much longer it takes to multiply weights as they lie on disk (docs/RESULTS.md)."""
READ_BYTES_PER_S: Final = 5e9
"""Of CPU time, in which weights are read: 0.2 ms for a tile (docs/planning.md)."""
QUOTA_NORM: Final = 8
"""A device that needs nearly all of its CPU time is throttled now and then, and the others wait. So
a step takes longer than the longest of what it takes without quotas and what each quota makes it
take: as long as their p-norm with this p, which fits the simulator's quotas within a few percent
(docs/planning.md)."""


class Part(StrEnum):
    """What a token's time is spent on, by the device that is waited for."""

    SERIAL = "serial"  # the root alone: attention, head, sampling
    SCATTER = "scatter"  # x encoded, sealed, sent to each worker
    COMPUTE = "compute"  # the FFN of the device that is waited for
    NETWORK = "network"  # there and back, and what the worker does for it
    GATHER = "gather"  # the partials that come last, taken in and added
    LOSSES = "losses"  # waiting for what was lost
    QUOTA = "quota"  # the CPU time a device may use, or cores that devices share
    STORAGE = "storage"  # weights that do not fit in memory, read again for each token


@dataclass(frozen=True)
class Step:
    """`parts` add up to `seconds`. `waited_for`: the device whose part is there last, or whose
    quota or storage sets the pace if that is the largest part."""

    seconds: float
    parts: Mapping[Part, float]
    waited_for: int


class Steps:
    """Of plans for the cluster and the workload of `timelines`."""

    def __init__(self, timelines: Timelines) -> None:
        self._timelines = timelines
        self._devices = timelines.cluster.devices
        self._workload = timelines.workload
        self._losses = Losses(timelines)

    def step(
        self, plan: Plan, tokens: int, context: int, given_up: Sequence[float], *, logits: bool
    ) -> Step:
        """One of so many tokens, which look at `context` cells. `given_up[d]`: the share of a
        worker's losses that the root does not wait for."""
        layers, root = self._workload.shape.n_layers, self._timelines.costs[0]
        copies = [plan.copies_on(d) for d in range(plan.n_devices)]
        groups = [self._groups(plan, d) for d in range(plan.n_devices)]
        round_ = self._timelines.round(groups, copies, tokens)
        ends, waited_for, ready_s, compute_s = [], 0, round_.own_s, round_.own_compute_s
        for d, answer in round_.answers.items():
            delays = self._losses.delays(d, round_, copies[d], tokens, given_up[d])
            ends.append((answer.there_s, delays))
            if answer.there_s > ready_s:
                waited_for, ready_s, compute_s = d, answer.there_s, answer.compute_s
        serial_s = root.prepare_s(tokens) + (root.head_s() if logits else 0.0)
        serial_s += layers * root.attention_s(tokens, context)
        parts = {
            Part.SERIAL: serial_s,
            Part.SCATTER: layers * round_.scattered_s,
            Part.COMPUTE: layers * compute_s,
            Part.NETWORK: layers * (ready_s - round_.scattered_s - compute_s),
            Part.GATHER: layers * (round_.end_s - ready_s),
            Part.LOSSES: layers * (expected_end_s(ends, round_.own_s) - ready_s),
        }
        seconds = sum(parts.values())
        busy_s = [layers * busy_s for busy_s in round_.busy_s]
        busy_s[0] += serial_s
        limits_s = self._limits_s(busy_s)
        shared_s = self._shared_s(busy_s)
        parts[Part.QUOTA] = max(shared_s, _together_s(seconds, limits_s)) - seconds
        seconds += parts[Part.QUOTA]
        loads_s = [self.load_s(plan, d) for d in range(plan.n_devices)]
        parts[Part.STORAGE] = max(0.0, max(loads_s) - seconds)
        seconds = max(seconds, *loads_s)
        largest = max(parts, key=lambda part: parts[part])
        if largest is Part.QUOTA:
            waited_for = limits_s.index(max(limits_s))
        elif largest is Part.STORAGE:
            waited_for = loads_s.index(max(loads_s))
        return Step(seconds, parts, waited_for)

    def _groups(self, plan: Plan, d: int) -> float:
        """That of which computing takes as long as the device's share does, with reading what does
        not stay in memory."""
        share = len(plan.shares[d])
        streamed = share - len(plan.resident_on(d))
        memory = self._devices[d].profile.memory_bytes_per_s
        return share + streamed * (UNPACKED + memory / READ_BYTES_PER_S)

    def load_s(self, plan: Plan, d: int) -> float:
        """What does not stay in the device's memory is read once a step. Without storage to read
        it from there is no end to that."""
        streamed = len(plan.shares[d]) - len(plan.resident_on(d))
        if not streamed:
            return 0.0
        rate = self._devices[d].storage_bytes_per_s
        return streamed * self._workload.shape.group_bytes / rate if rate else math.inf

    def _limits_s(self, busy_s: Sequence[float]) -> list[float]:
        """How long a step takes each device at least, for the CPU time it may use; 0: no limit."""
        return [
            used_s / device.quota if device.quota < 1 else 0.0
            for device, used_s in zip(self._devices, busy_s, strict=True)
        ]

    def _shared_s(self, busy_s: Sequence[float]) -> float:
        """And those that share cores."""
        used: dict[SharedCores, float] = {}
        for device, used_s in zip(self._devices, busy_s, strict=True):
            if device.cores is not None:
                used[device.cores] = used.get(device.cores, 0.0) + used_s / device.cores.count
        return max(used.values(), default=0.0)


def _together_s(alone_s: float, limits_s: Sequence[float]) -> float:
    """See `QUOTA_NORM`."""
    longest_s = max(alone_s, *limits_s)
    total = sum((each_s / longest_s) ** QUOTA_NORM for each_s in (alone_s, *limits_s))
    return longest_s * math.pow(total, 1 / QUOTA_NORM)

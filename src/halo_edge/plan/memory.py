"""What fits in a device's memory."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

from halo_edge.groups.partition import TILE_NEURONS
from halo_edge.plan.device import PROCESS_BYTES, Cluster
from halo_edge.plan.model_shape import ModelShape
from halo_edge.plan.workload import Workload

KV_VALUE_BYTES: Final = 2  # f16


def capacities(cluster: Cluster, workload: Workload) -> list[int]:
    """How many groups of every layer each device can keep in memory, at most all there are."""
    shape = workload.shape
    n_groups = shape.partition.n_groups
    found = []
    for d, device in enumerate(cluster.devices):
        if device.memory_bytes is None:
            found.append(n_groups)
            continue
        more = 0.0 if d else _root_bytes(workload)
        found.append(groups_in(device.memory_bytes - more, shape))
    return found


def groups_in(memory_bytes: float, shape: ModelShape) -> int:
    """How many groups of every layer a worker with so much memory can keep in it."""
    free = memory_bytes - PROCESS_BYTES
    return min(shape.partition.n_groups, max(0, int(free // shape.group_bytes)))


def tile_groups(shape: ModelShape) -> int:
    """Of how many groups' weights a piece consists that is kept, read and sent."""
    return -(-TILE_NEURONS // shape.group_size)


def _root_bytes(workload: Workload) -> float:
    """What only the root holds: attention, embedding and head, and the KV cache."""
    shape = workload.shape
    weights = shape.n_layers * shape.attention_weights + 2 * shape.head_weights
    cells = workload.prompt + workload.answer
    kv = 2 * KV_VALUE_BYTES * shape.kv_width * cells * shape.n_layers
    return weights * shape.weight_bytes + kv


def residents(
    shares: Sequence[range], capacity: Sequence[int], shape: ModelShape
) -> tuple[range, ...]:
    """Of each share what stays in memory: the first, which matter most. Where not all do, there is
    room for what is read ahead too: a layer's, and a tile."""
    layers = shape.n_layers
    found = []
    for share, fits in zip(shares, capacity, strict=True):
        stay = len(share)
        if fits < stay:
            # fits = stay + (len(share) - stay + tile) / layers, and a model of one layer reads all
            ahead = (stay + tile_groups(shape)) / layers
            stay = max(0, math.floor((fits - ahead) / (1 - 1 / layers))) if layers > 1 else 0
        found.append(share[:stay])
    return tuple(found)


def streamable(fits: int, shape: ModelShape) -> int:
    """How many groups of every layer a device may have that keeps so many in memory, if it reads
    the others from storage."""
    return min(shape.partition.n_groups, max(0, fits * shape.n_layers - tile_groups(shape)))

"""What fits in a device's memory."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

from halo_edge.groups.learning import rows_bytes, weights_bytes
from halo_edge.groups.partition import TILE_NEURONS
from halo_edge.plan.device import PROCESS_BYTES, Cluster
from halo_edge.plan.model_shape import ModelShape
from halo_edge.plan.workload import Workload

KV_VALUE_BYTES: Final = 2  # f16
ROOT_PROCESS_BYTES: Final = 80 << 20
"""What a root's process takes beyond a worker's: the scheduler's solver (23 MB), its benchmark for
some seconds (48 MB)."""
_FLOAT_BYTES: Final = 4
_HALF_BYTES: Final = 2


def capacities(cluster: Cluster, workload: Workload) -> list[int]:
    """How many groups of every layer each device can keep in memory, at most all there are."""
    root, *workers = (device.memory_bytes for device in cluster.devices)
    return [
        groups_at_root(root, workload, len(workers)),
        *(groups_in(memory_bytes, workload.shape) for memory_bytes in workers),
    ]


def groups_at_root(memory_bytes: float | None, workload: Workload, workers: int = 0) -> int:
    """As `groups_in`, of the root, which holds more than groups: more yet with workers."""
    if memory_bytes is not None:
        memory_bytes -= _root_bytes(workload, workers)
    return groups_in(memory_bytes, workload.shape)


def groups_in(memory_bytes: float | None, shape: ModelShape) -> int:
    """How many groups of every layer a worker with so much memory can keep in it; None: with
    enough."""
    if memory_bytes is None:
        return shape.partition.n_groups
    free = memory_bytes - PROCESS_BYTES
    return min(shape.partition.n_groups, max(0, int(free // shape.group_bytes)))


def bytes_for(groups: float, shape: ModelShape) -> float:
    """`groups_in` the other way round: what a worker needs to keep so many."""
    return PROCESS_BYTES + groups * shape.group_bytes


def bytes_at_root(groups: float, workload: Workload, workers: int = 0) -> float:
    """`groups_at_root` the other way round."""
    return _root_bytes(workload, workers) + bytes_for(groups, workload.shape)


def tile_groups(shape: ModelShape) -> int:
    """Of how many groups' weights a piece consists that is kept, read and sent."""
    return -(-TILE_NEURONS // shape.group_size)


def _root_bytes(workload: Workload, workers: int) -> float:
    """What only the root holds: attention, embedding and head, the KV cache, what going on without
    chunks takes, and its process."""
    shape = workload.shape
    weights = shape.n_layers * shape.attention_weights + 2 * shape.head_weights
    kv = 2 * KV_VALUE_BYTES * shape.kv_width * workload.kv_cells * shape.n_layers
    relaxing = _relaxing_bytes(workload, workers) if workload.rank else 0
    return ROOT_PROCESS_BYTES + weights * shape.weight_bytes + kv + relaxing


def _relaxing_bytes(workload: Workload, workers: int) -> int:
    """The profile; and of each worker the fill, as it came and as it is improved. While one plan
    takes another's place, those of both."""
    shape, rank = workload.shape, workload.rank
    layers, hidden = shape.n_layers, shape.hidden
    profile = layers * (shape.ffn * (rank + 1) + rank * hidden) * _FLOAT_BYTES
    came = layers * hidden * (rank + 1) * _HALF_BYTES
    fills = workers * (came + weights_bytes(layers, hidden, rank))
    return profile + 2 * fills + rows_bytes(layers, hidden, rank, workers)


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

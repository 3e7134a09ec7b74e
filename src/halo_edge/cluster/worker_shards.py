"""A worker loads what it was assigned: its shards, and what its fill is made from."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
from numpy.typing import NDArray

from halo_edge.cluster.fill_compute import HeldFill, compute_fills, regression_nbytes
from halo_edge.cluster.messages import Assignment
from halo_edge.cluster.shard_cache import ShardCache
from halo_edge.compute.ffn import FfnWeights
from halo_edge.compute.runtime import Runtime
from halo_edge.groups.shard import ShardSpec

Fetch = Callable[[str, str, int, int], bytes]
"""`WorkerControl.fetch_shard`."""


def load_shards(assignment: Assignment, cache: ShardCache, fetch: Fetch) -> list[FfnWeights | None]:
    """The shard of each layer, from the disk or else from the root. Raises `HaloError`."""
    weights: list[FfnWeights | None] = []
    names = {shard.sha256 for shard in assignment.shards if shard is not None}
    for shard in assignment.shards:
        if shard is None:
            weights.append(None)
            continue
        types = (shard.gate_type, shard.up_type, shard.down_type)
        spec = ShardSpec(shard.neurons, assignment.width, *types)
        weights.append(spec.weights(_load(assignment, shard.sha256, spec.nbytes, cache, fetch)))
    cache.prune(frozenset(names))
    return weights


def load_fill(
    assignment: Assignment,
    weights: list[FfnWeights | None],
    runtime: Runtime,
    cache: ShardCache,
    fetch: Fetch,
) -> HeldFill:
    """The fill, computed, if one is asked for. Raises `HaloError`."""
    task = assignment.fill
    if task is None:
        return HeldFill(None)
    nbytes = regression_nbytes(weights, task.columns)
    regression = _load(assignment, task.sha256, nbytes, cache, fetch)
    return HeldFill(compute_fills(runtime, weights, regression, task.columns, assignment.width))


def _load(
    assignment: Assignment, sha256: str, nbytes: int, cache: ShardCache, fetch: Fetch
) -> NDArray[np.uint8]:
    return cache.load(sha256, nbytes, partial(fetch, assignment.session, sha256))

"""A worker loads what it was assigned: its shards, and what its fill is made from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from halo_edge.cluster.fill_compute import HeldFill, compute_fills, regression_nbytes
from halo_edge.cluster.messages import Assignment, Tile
from halo_edge.cluster.shard_cache import ShardCache
from halo_edge.compute.direct_read import whole_blocks
from halo_edge.compute.ffn import FfnWeights, LayerWeights
from halo_edge.compute.runtime import Runtime
from halo_edge.compute.streamed_ffn import StreamedTile
from halo_edge.errors import HaloError
from halo_edge.groups.shard import ShardSpec

Fetch = Callable[[str, str, int, int], bytes]
"""`WorkerControl.fetch_shard`."""


@dataclass(frozen=True)
class LoadedShards:
    """By layer: what is to stay in memory, what is to be streamed, and where that is on disk. All
    is mapped."""

    resident: Sequence[LayerWeights]
    streamed: Sequence[LayerWeights]
    files: Sequence[Sequence[StreamedTile]]

    def whole(self, layer: int) -> LayerWeights:
        """All of the device's."""
        return [*self.resident[layer], *self.streamed[layer]]


def memory_needed(assignment: Assignment) -> int:
    """Bytes that the shards of an assignment take in memory, and what is read ahead of the others.
    Raises `ValueError` for tiles that make no sense."""
    spec = partial(_spec, assignment.width)
    resident = sum(spec(tile).nbytes for tiles in assignment.shards for tile in tiles)
    files = [[spec(tile).nbytes for tile in tiles] for tiles in assignment.streamed]
    return resident + pool_bytes(files)


def pool_bytes(files: Sequence[Sequence[int]]) -> int:
    """For tiles of so many bytes, by layer, that are streamed: a layer's, and one that is read
    while those are computed with."""
    sizes = [nbytes for layer in files for nbytes in layer]
    if not sizes:
        return 0
    return max(2, max(map(len, files)) + 1) * whole_blocks(max(sizes))


def load_shards(assignment: Assignment, cache: ShardCache, fetch: Fetch) -> LoadedShards:
    """The tiles of each layer, on disk or else from the root. Raises `HaloError`, also for an
    assignment that does not say of every layer what is streamed."""
    layers = len(assignment.shards)
    streamed = assignment.streamed or [[] for _ in range(layers)]
    if len(streamed) != layers:
        raise HaloError("the root's assignment has other layers in memory than on disk")

    spec = partial(_spec, assignment.width)

    def load(tile: Tile) -> FfnWeights:
        layout = spec(tile)
        return layout.weights(_load(assignment, tile.sha256, layout.nbytes, cache, fetch))

    loaded = LoadedShards(
        [[load(tile) for tile in tiles] for tiles in assignment.shards],
        [[load(tile) for tile in tiles] for tiles in streamed],
        [
            [StreamedTile(cache.directory / tile.sha256, spec(tile)) for tile in tiles]
            for tiles in streamed
        ],
    )
    every = (tile for tiles in (*assignment.shards, *streamed) for tile in tiles)
    cache.prune(frozenset(tile.sha256 for tile in every))
    return loaded


def load_fill(
    assignment: Assignment,
    shards: LoadedShards,
    runtime: Runtime,
    cache: ShardCache,
    fetch: Fetch,
) -> HeldFill:
    """The fill, computed, if one is asked for. Raises `HaloError`."""
    task = assignment.fill
    if task is None:
        return HeldFill(None)
    weights = [shards.whole(layer) for layer in range(len(shards.resident))]
    nbytes = regression_nbytes(weights, task.columns)
    regression = _load(assignment, task.sha256, nbytes, cache, fetch)
    # In place: nothing of what is streamed may stay in memory.
    in_place = runtime.in_place()
    return HeldFill(compute_fills(in_place, weights, regression, task.columns, assignment.width))


def _spec(width: int, tile: Tile) -> ShardSpec:
    return ShardSpec(tile.neurons, width, tile.gate_type, tile.up_type, tile.down_type)


def _load(
    assignment: Assignment, sha256: str, nbytes: int, cache: ShardCache, fetch: Fetch
) -> NDArray[np.uint8]:
    return cache.load(sha256, nbytes, partial(fetch, assignment.session, sha256))

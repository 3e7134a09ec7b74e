"""A worker loads what it was assigned: its shards, and what its fill is made from."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import partial

from halo_edge.cluster.fill_compute import HeldFill, compute_fills, regression_nbytes
from halo_edge.cluster.held_tiles import HeldTiles
from halo_edge.cluster.messages import Assignment, Tile, Tiles
from halo_edge.cluster.shard_cache import ShardCache
from halo_edge.cluster.tile_source import TileSource
from halo_edge.compute.direct_read import whole_blocks
from halo_edge.compute.ffn import FfnWeights, LayerWeights
from halo_edge.compute.runtime import Runtime
from halo_edge.compute.streamed_ffn import StreamedTile
from halo_edge.errors import HaloError
from halo_edge.groups.shard import ShardSpec


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


def memory_needed(assignment: Assignment, held: Collection[str]) -> int:
    """Bytes that those shards of an assignment take in memory that are not `held`, and what is read
    ahead of the others. Raises `ValueError` for tiles that make no sense."""
    spec = partial(spec_of_tile, assignment.width)
    new = {tile.sha256: spec(tile).nbytes for tiles in assignment.shards for tile in tiles}
    files = [[spec(tile).nbytes for tile in tiles] for tiles in assignment.streamed]
    return sum(nbytes for name, nbytes in new.items() if name not in held) + pool_bytes(files)


def names(layers: Sequence[Tiles]) -> frozenset[str]:
    """Of the tiles of all layers."""
    return frozenset(tile.sha256 for tiles in layers for tile in tiles)


def pool_bytes(files: Sequence[Sequence[int]]) -> int:
    """For tiles of so many bytes, by layer, that are streamed: a layer's, and one that is read
    while those are computed with."""
    sizes = [nbytes for layer in files for nbytes in layer]
    if not sizes:
        return 0
    return max(2, max(map(len, files)) + 1) * whole_blocks(max(sizes))


def load_shards(
    assignment: Assignment, held: HeldTiles, source: TileSource, cache: ShardCache
) -> LoadedShards:
    """The tiles of each layer: those in memory, and the others from where they are. Raises
    `HaloError`, also for an assignment that does not say of every layer what is streamed."""
    layers = len(assignment.shards)
    streamed = assignment.streamed or [[] for _ in range(layers)]
    if len(streamed) != layers:
        raise HaloError("the root's assignment has other layers in memory than on disk")

    spec = partial(spec_of_tile, assignment.width)

    def mapped(tile: Tile) -> FfnWeights:
        layout = spec(tile)
        return layout.weights(source.load(tile.sha256, layout.nbytes))

    def resident(tile: Tile) -> FfnWeights:
        found = held.get(tile.sha256)
        if found is None:
            found = held.add(tile.sha256, mapped(tile), spec(tile).nbytes)
        return found

    loaded = LoadedShards(
        [[resident(tile) for tile in tiles] for tiles in assignment.shards],
        [[mapped(tile) for tile in tiles] for tiles in streamed],
        [
            [StreamedTile(cache.directory / tile.sha256, spec(tile)) for tile in tiles]
            for tiles in streamed
        ],
    )
    cache.prune(names(assignment.shards) | names(streamed) | names(assignment.replicas))
    return loaded


def load_fill(
    assignment: Assignment, shards: LoadedShards, runtime: Runtime, source: TileSource
) -> HeldFill:
    """The fill, computed, if one is asked for. `runtime`: nobody else's at the time. Raises
    `HaloError`."""
    task = assignment.fill
    if task is None:
        return HeldFill(None)
    weights = [shards.whole(layer) for layer in range(len(shards.resident))]
    regression = source.load(task.sha256, regression_nbytes(weights, task.columns))
    # In place: nothing of what is streamed may stay in memory.
    in_place = runtime.in_place()
    return HeldFill(compute_fills(in_place, weights, regression, task.columns, assignment.width))


def spec_of_tile(width: int, tile: Tile) -> ShardSpec:
    return ShardSpec(tile.neurons, width, tile.gate_type, tile.up_type, tile.down_type)

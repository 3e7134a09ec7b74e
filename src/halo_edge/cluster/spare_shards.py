"""What a root keeps to stand in for workers, from one epoch to the next: their shards, repacked,
and graphs for one token, both made beforehand.

A worker's weights are repacked as the worker does it, tile by tile: with the same kernels the
answer is the worker's to the last bit. When this is to be had, and who is stood in for, is the
`StandIn`'s business.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeAlias

from halo_edge.cluster.shard_store import ShardStore
from halo_edge.compute.ffn import FfnGraphs, FfnWeights, LayerWeights
from halo_edge.compute.rows import Rows
from halo_edge.compute.runtime import Runtime
from halo_edge.groups.partition import tiles

Pieces: TypeAlias = tuple[range, ...]
"""Of neurons: what a device holds of every layer."""


class SpareShard:
    """Of one device. `layers`: those that are ready; who finds one there may run its graphs, for
    any number of tokens, while another thread makes other layers ready."""

    def __init__(self, runtime: Runtime, n_layers: int, x: Rows, out: Rows) -> None:
        self.layers: set[int] = set()
        self._weights: list[LayerWeights] = [()] * n_layers
        self.graphs = FfnGraphs(runtime, self._weights, x, out)

    def add(self, layer: int, weights: LayerWeights) -> None:
        """Repacked already."""
        self._weights[layer] = weights
        self.graphs.prepare_layer(layer)
        self.layers.add(layer)


class SpareShards:
    """Of one session: tiles of `store`. `x` is read, and `out` written."""

    def __init__(
        self,
        store: ShardStore,
        n_layers: int,
        runtime: Runtime,
        x: Rows,
        out: Rows,
    ) -> None:
        self._store = store
        self._n_layers = n_layers
        self._runtime = runtime.piecewise()
        self._x = x
        self._out = out
        self._shards: dict[Pieces, SpareShard] = {}
        self._tiles: dict[tuple[int, range], FfnWeights] = {}
        self._wanted: frozenset[Pieces] = frozenset()

    def of(self, wanted: Sequence[Pieces]) -> list[SpareShard]:
        """One for each, ready as far as it has been made so. All others are let go that were not
        wanted the last time either: the epoch before this one is still in use."""
        keep = self._wanted | frozenset(wanted)
        self._wanted = frozenset(wanted)
        for pieces in self._shards.keys() - keep:
            del self._shards[pieces]
        mine = {tile for pieces in keep for piece in pieces for tile in tiles(piece)}
        for key in [key for key in list(self._tiles) if key[1] not in mine]:
            gone = self._tiles.pop(key)
            for matrix in (gone.gate, gone.up, gone.down):
                self._runtime.weights.forget(matrix)
        for pieces in wanted:
            if pieces not in self._shards:
                self._shards[pieces] = SpareShard(self._runtime, self._n_layers, self._x, self._out)
        return [self._shards[pieces] for pieces in wanted]

    def get_ready(self, pieces: Pieces, shard: SpareShard) -> Iterator[None]:
        """What is left to do for it, in steps of a millisecond or two. One thread may, at a
        time."""
        for layer in range(self._n_layers):
            if layer in shard.layers:
                continue
            weights = []
            for tile in (tile for piece in pieces for tile in tiles(piece)):
                weights.append(self._repacked(layer, tile))
                yield
            shard.add(layer, weights)
            yield

    def _repacked(self, layer: int, tile: range) -> FfnWeights:
        held = self._tiles.get((layer, tile))
        if held is None:
            (held,) = self._store.weights(layer, tile)
            for matrix in (held.gate, held.up, held.down):
                self._runtime.weights.place(matrix)
            self._tiles[layer, tile] = held
        return held

"""The root's shards: cut into tiles and packed once, kept on disk, mapped when they are read.

Where the disk does not take them they are cut and packed again whenever somebody wants one, a few
at a time in memory.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from halo_edge.cluster.messages import Tile
from halo_edge.cluster.shard_cache import ShardCache, checksum
from halo_edge.cluster.shard_index import IndexedTile, ShardIndex
from halo_edge.compute.ffn import FfnWeights, LayerWeights
from halo_edge.errors import HaloError
from halo_edge.groups.ffn_source import FfnSource
from halo_edge.groups.partition import tiles
from halo_edge.groups.shard import ShardSpec, content_hash, pack, spec_of

# Packed tiles kept for the next piece: workers fetch theirs at the same time.
MAX_PACKED: Final = 4


class ShardStore:
    """The shards of `source`, whose x is `width` wide, in `cache`. Any thread may ask."""

    def __init__(self, source: FfnSource, n_layers: int, width: int, cache: ShardCache) -> None:
        self._source = source
        self._n_layers = n_layers
        self._width = width
        self._cache = cache
        self._index = ShardIndex(cache.directory, source.name)
        self._places: dict[str, tuple[int, range]] = {}
        self._sizes: dict[str, int] = {}
        self._verified: set[str] = set()
        self._disk_takes = True
        self._blobs: dict[str, NDArray[np.uint8]] = {}
        self._packing = threading.Lock()
        self._packed: OrderedDict[str, NDArray[np.uint8]] = OrderedDict()

    def describe(
        self,
        parts: Sequence[range],
        packed: Callable[[Mapping[range, Tile]], None] | None = None,
        between: Callable[[], object] = lambda: None,
    ) -> list[list[list[Tile]]]:
        """For each of `parts`, ranges of neurons, the tiles of every layer; none for no neurons.

        Packs those that are not on disk. `packed` is told those of each layer when they are there
        to be fetched, by their neurons: not where the disk does not take them. `between` is called
        after each layer.
        """
        wanted = list(dict.fromkeys(tile for part in parts for tile in tiles(part)))
        new = False
        for layer in range(self._n_layers):
            missing = [part for part in wanted if not self._has(layer, part)]
            if missing:
                new = True
                cut = self._source.cuts(layer, missing)
                for part, weights in zip(missing, cut, strict=True):
                    self._add(layer, part, weights)
                if packed is not None and self._disk_takes:
                    packed({part: self._tile(layer, part) for part in missing})
            between()
        if new:  # each takes a look at all files, of which there are many
            on_disk = self._cache.names()
            self._index.save(lambda tile: tile.sha256 in on_disk)
            between()
            self._cache.prune(frozenset(self._sizes) | {self._index.file_name})
        return [
            [[self._tile(layer, tile) for tile in tiles(part)] for layer in range(self._n_layers)]
            for part in parts
        ]

    def add_blob(self, data: NDArray[np.uint8]) -> str:
        """Keep something else that workers fetch as they do tiles; its sha256."""
        sha256 = content_hash(data)
        self._sizes[sha256] = data.nbytes
        if self._find(sha256) is None:
            self._keep(sha256, data)
        if sha256 not in self._verified:
            self._blobs[sha256] = data
        return sha256

    def packed(self, sha256: str) -> NDArray[np.uint8]:
        """The bytes of a tile that was described, or of a blob.

        Raises `HaloError` for any other.
        """
        if sha256 not in self._sizes:
            raise HaloError("no such tile in this session")
        with self._packing:
            mapped = self._find(sha256)
            if mapped is not None:
                return mapped
            packed = self._packed.get(sha256)
            if packed is None:
                packed = self._packed[sha256] = self._pack_again(sha256)
                if len(self._packed) > MAX_PACKED:
                    self._packed.popitem(last=False)
            self._packed.move_to_end(sha256)
            return packed

    def weights(self, layer: int, neurons: range) -> LayerWeights:
        """The tiles of `neurons` of `layer`, mapped from disk, or else cut anew into memory.

        Checked by their checksums: a round may be waiting, and sha256 takes longer than all the
        rest.
        """
        return [self._mapped_tile(layer, tile) for tile in tiles(neurons)]

    def in_model(self, layer: int, neurons: range) -> FfnWeights | None:
        """See `FfnSource.mapped`."""
        return self._source.mapped(layer, neurons)

    def mapped(self, layer: int, neurons: range) -> list[NDArray[np.uint8]]:
        """Those packed tiles that are on disk, mapped for their pages and not for their content,
        which is not checked."""
        indexed = (self._index.get(layer, tile) for tile in tiles(neurons))
        known = (found.tile for found in indexed if found is not None)
        mapped = (self._cache.map(tile.sha256, self._nbytes(tile)) for tile in known)
        return [packed for packed in mapped if packed is not None]

    def _mapped_tile(self, layer: int, part: range) -> FfnWeights:
        indexed = self._index.get(layer, part)
        if indexed is not None:
            tile = indexed.tile
            mapped = self._cache.map(tile.sha256, self._nbytes(tile))
            if mapped is not None:
                if tile.sha256 in self._verified or checksum(mapped) == indexed.checksum:
                    self._verified.add(tile.sha256)
                    return self._spec(tile).weights(mapped)
                self._cache.remove(tile.sha256)
        return self._source.cut(layer, part)

    def _tile(self, layer: int, part: range) -> Tile:
        """One that was described."""
        indexed = self._index.get(layer, part)
        assert indexed is not None
        return indexed.tile

    def _has(self, layer: int, part: range) -> bool:
        indexed = self._index.get(layer, part)
        if indexed is None:
            return False
        tile = indexed.tile
        if tile.neurons != len(part) or not self._on_disk(tile):
            return False
        self._places[tile.sha256] = (layer, part)
        self._sizes[tile.sha256] = self._nbytes(tile)
        return True

    def _on_disk(self, tile: Tile) -> bool:
        try:
            return self._cache.touch(tile.sha256, self._nbytes(tile))
        except ValueError:  # a damaged index
            return False

    def _add(self, layer: int, part: range, weights: FfnWeights) -> None:
        packed, spec = pack(weights), spec_of(weights)
        sha256 = content_hash(packed)
        types = (spec.gate_type, spec.up_type, spec.down_type)
        tile = Tile(spec.neurons, *types, sha256)
        self._index.put(layer, part, IndexedTile(tile, checksum(packed)))
        self._places[sha256] = (layer, part)
        self._keep(sha256, packed)

    def _keep(self, sha256: str, packed: NDArray[np.uint8]) -> None:
        self._sizes[sha256] = packed.nbytes
        if not self._disk_takes:
            return
        try:
            self._cache.add(sha256, packed)
        except OSError:  # full, or not ours to write: do without, and do not try every shard
            self._disk_takes = False
            return
        self._verified.add(sha256)

    def _find(self, sha256: str) -> NDArray[np.uint8] | None:
        """The mapped tile, its content checked once."""
        nbytes = self._sizes[sha256]
        if sha256 in self._verified:
            return self._cache.map(sha256, nbytes)
        mapped = self._cache.find(sha256, nbytes)
        if mapped is not None:
            self._verified.add(sha256)
        return mapped

    def _pack_again(self, sha256: str) -> NDArray[np.uint8]:
        blob = self._blobs.get(sha256)
        if blob is not None:
            return blob
        if sha256 not in self._places:
            raise HaloError("what a worker asked for is gone from the disk; start again")
        packed = pack(self._source.cut(*self._places[sha256]))
        if content_hash(packed) != sha256:
            raise HaloError("the index of tiles is damaged; remove the shards from the cache")
        self._keep(sha256, packed)
        return packed

    def _spec(self, tile: Tile) -> ShardSpec:
        return ShardSpec(tile.neurons, self._width, tile.gate_type, tile.up_type, tile.down_type)

    def _nbytes(self, tile: Tile) -> int:
        return self._spec(tile).nbytes

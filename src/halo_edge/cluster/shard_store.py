"""The root's packed shards: cut and packed once, kept on disk, mapped when they are read.

Where the disk does not take them they are cut and packed again whenever somebody wants one, a few
at a time in memory.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from halo_edge.cluster.messages import LayerShard
from halo_edge.cluster.shard_cache import ShardCache
from halo_edge.cluster.shard_index import IndexedShard, ShardIndex
from halo_edge.compute.ffn import FfnWeights
from halo_edge.errors import HaloError
from halo_edge.groups.ffn_source import FfnSource
from halo_edge.groups.shard import ShardSpec, content_hash, pack, spec_of

# Packed shards kept for the next piece: workers fetch theirs at the same time.
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

    def describe(self, parts: Sequence[range]) -> list[list[LayerShard | None]]:
        """For each of `parts`, ranges of neurons, the shard of every layer; None for no neurons.

        Packs those that are not on disk.
        """
        for layer in range(self._n_layers):
            missing = [part for part in parts if part and not self._has(layer, part)]
            if missing:
                cut = self._source.cuts(layer, missing)
                for part, weights in zip(missing, cut, strict=True):
                    self._add(layer, part, weights)
        self._index.save(self._on_disk)
        self._cache.prune(frozenset(self._sizes) | {self._index.file_name})
        return [[self._shard(layer, part) for layer in range(self._n_layers)] for part in parts]

    def add_blob(self, data: NDArray[np.uint8]) -> str:
        """Keep something else that workers fetch as they do shards; its sha256."""
        sha256 = content_hash(data)
        self._sizes[sha256] = data.nbytes
        if self._find(sha256) is None:
            self._keep(sha256, data)
        if sha256 not in self._verified:
            self._blobs[sha256] = data
        return sha256

    def packed(self, sha256: str) -> NDArray[np.uint8]:
        """The bytes of a shard that was described, or of a blob.

        Raises `HaloError` for any other.
        """
        if sha256 not in self._sizes:
            raise HaloError("no such shard in this session")
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

    def weights(self, layer: int, neurons: range) -> FfnWeights:
        """The shard of `neurons` of `layer`, mapped from disk, or else cut anew into memory.

        Checked by its checksum: a round may be waiting, and sha256 takes longer than all the rest.
        """
        indexed = self._index.get(layer, neurons)
        if indexed is not None:
            shard = indexed.shard
            mapped = self._cache.map(shard.sha256, self._nbytes(shard))
            if mapped is not None:
                if shard.sha256 in self._verified or _checksum(mapped) == indexed.checksum:
                    self._verified.add(shard.sha256)
                    return self._spec(shard).weights(mapped)
                self._cache.remove(shard.sha256)
        return self._source.cut(layer, neurons)

    def mapped(self, layer: int, neurons: range) -> NDArray[np.uint8] | None:
        """The packed shard if it is on disk, mapped for its pages and not for its content, which
        is not checked."""
        shard = self._shard(layer, neurons)
        return None if shard is None else self._cache.map(shard.sha256, self._nbytes(shard))

    def _shard(self, layer: int, neurons: range) -> LayerShard | None:
        indexed = self._index.get(layer, neurons)
        return None if indexed is None else indexed.shard

    def _has(self, layer: int, part: range) -> bool:
        shard = self._shard(layer, part)
        if shard is None or shard.neurons != len(part) or not self._on_disk(shard):
            return False
        self._places[shard.sha256] = (layer, part)
        self._sizes[shard.sha256] = self._nbytes(shard)
        return True

    def _on_disk(self, shard: LayerShard) -> bool:
        try:
            return self._cache.touch(shard.sha256, self._nbytes(shard))
        except ValueError:  # a damaged index
            return False

    def _add(self, layer: int, part: range, weights: FfnWeights) -> None:
        packed, spec = pack(weights), spec_of(weights)
        sha256 = content_hash(packed)
        types = (spec.gate_type, spec.up_type, spec.down_type)
        shard = LayerShard(spec.neurons, *types, sha256)
        self._index.put(layer, part, IndexedShard(shard, _checksum(packed)))
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
        """The mapped shard, its content checked once."""
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
            raise HaloError("the index of shards is damaged; remove the shards from the cache")
        self._keep(sha256, packed)
        return packed

    def _spec(self, shard: LayerShard) -> ShardSpec:
        types = (shard.gate_type, shard.up_type, shard.down_type)
        return ShardSpec(shard.neurons, self._width, *types)

    def _nbytes(self, shard: LayerShard) -> int:
        return self._spec(shard).nbytes


def _checksum(packed: NDArray[np.uint8]) -> int:
    """Of a packed shard, which is a whole number of 8-byte words: their sum. It tells a torn write
    or a flipped bit, and runs as fast as memory."""
    return int(packed.view(np.uint64).sum())

"""Made-up assignments, and their tiles."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from halo_edge.cluster.messages import Assignment, Tile, Transport
from halo_edge.cluster.shard_cache import ShardCache
from halo_edge.compute.wire import WireFormat
from halo_edge.groups.ffn_source import FfnSource
from halo_edge.groups.shard import content_hash, pack, spec_of
from halo_edge.model.gguf_file import GgufFile

WIDTH = 128


class Tiles:
    """Four of each of a tiny model's three layers: by layer, and their bytes by name."""

    def __init__(self, model: Path) -> None:
        source = FfnSource(GgufFile.open(model))
        parts = [range(at, at + 128) for at in range(0, 512, 128)]
        self.layers: list[list[Tile]] = []
        self.packed: dict[str, Any] = {}
        for layer in range(3):
            described = []
            for weights in source.cuts(layer, parts):
                packed, spec = pack(weights), spec_of(weights)
                name = content_hash(packed)
                self.packed[name] = packed
                types = (spec.gate_type, spec.up_type, spec.down_type)
                described.append(Tile(spec.neurons, *types, name))
            self.layers.append(described)

    def of(self, *which: int) -> list[list[Tile]]:
        """Of every layer."""
        return [[tiles[i] for i in which] for tiles in self.layers]

    def piece(self, _: str, sha256: str, start: int, stop: int) -> bytes:
        """As a root gives it, or a peer."""
        return bytes(self.packed[sha256][start:stop])

    def put(self, cache: ShardCache) -> None:
        """All on disk."""
        for name, packed in self.packed.items():
            cache.directory.mkdir(parents=True, exist_ok=True)
            cache.add(name, np.asarray(packed))

    @property
    def nbytes(self) -> int:
        """Of one; all are alike."""
        return int(next(iter(self.packed.values())).nbytes)


def assignment(shards: Sequence[Sequence[Tile]], **more: Any) -> Assignment:
    settings: dict[str, Any] = {
        "control_version": 0,
        "session": "s",
        "key": bytes(32),
        "device": 1,
        "epoch": 0,
        "root_address": "127.0.0.1",
        "root_port": 1,
        "transport": Transport.UDP,
        "x_wire": WireFormat.F16,
        "partial_wire": WireFormat.F16,
        "width": WIDTH,
        "max_tokens": 8,
        "max_payload": 1200,
        "window": 8,
    }
    return Assignment(shards=[list(tiles) for tiles in shards], **settings | more)

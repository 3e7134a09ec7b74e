"""Which packed tile is which part of a model: so that a root that starts again need not cut, pack
and hash its tiles to know their names.

One JSON file for each `FfnSource`, beside the tiles. It is only a memory: what is missing or
wrong in it costs packing anew. The tiles it names are checked by whoever maps them.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Final

import msgspec
from msgspec import Meta, Struct

from halo_edge.cluster.messages import Tile

# Each some 170 bytes: a model of 80 layers has 9,000 tiles, and every other way to split it a few
# cut ones more.
MAX_ENTRIES: Final = 1 << 16
MAX_BYTES: Final = 1 << 24

Neuron = Annotated[int, Meta(ge=0, le=1 << 24)]


class IndexedTile(Struct, frozen=True):
    """`checksum`: of its bytes, faster than their sha256; for a file of our own that is enough."""

    tile: Tile
    checksum: Annotated[int, Meta(ge=0)]


class _Entry(Struct, frozen=True, array_like=True):
    layer: Annotated[int, Meta(ge=0, le=1024)]
    start: Neuron
    stop: Neuron
    indexed: IndexedTile


class _File(Struct, frozen=True):
    entries: Annotated[list[_Entry], Meta(max_length=MAX_ENTRIES)]


class ShardIndex:
    """The tiles cut from the source called `name`, as kept in `directory`."""

    def __init__(self, directory: Path, name: str) -> None:
        self._path = directory / f"{name}.index"
        self._shards = _read(self._path)
        self._saved = dict(self._shards)

    @property
    def file_name(self) -> str:
        return self._path.name

    def get(self, layer: int, neurons: range) -> IndexedTile | None:
        return self._shards.get((layer, neurons.start, neurons.stop))

    def put(self, layer: int, neurons: range, indexed: IndexedTile) -> None:
        self._shards[layer, neurons.start, neurons.stop] = indexed

    def save(self, exists: Callable[[Tile], bool]) -> None:
        """Write it if there is anything new, without what no longer `exists`.

        Where the disk does not take it, nothing happens.
        """
        if self._shards == self._saved:
            return
        kept = [(place, found) for place, found in self._shards.items() if exists(found.tile)]
        entries = [_Entry(*place, found) for place, found in kept[-MAX_ENTRIES:]]
        unfinished = self._path.with_name(f".{self._path.name}.{os.getpid()}")
        try:
            unfinished.write_bytes(msgspec.json.encode(_File(entries)))
            unfinished.rename(self._path)
        except OSError:
            with contextlib.suppress(OSError):
                unfinished.unlink(missing_ok=True)
            return
        self._saved = dict(self._shards)


def _read(path: Path) -> dict[tuple[int, int, int], IndexedTile]:
    try:
        with path.open("rb") as file:
            found = msgspec.json.decode(file.read(MAX_BYTES), type=_File)
        os.utime(path)
    except (OSError, msgspec.MsgspecError):
        return {}
    return {(e.layer, e.start, e.stop): e.indexed for e in found.entries}

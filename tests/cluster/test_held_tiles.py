"""What stays in a worker's memory."""

from __future__ import annotations

import ctypes
from pathlib import Path

import numpy as np
import pytest
from tests.cluster.assignments import WIDTH, Tiles, assignment

from halo_edge.cluster.held_tiles import HeldTiles
from halo_edge.cluster.shard_cache import ShardCache
from halo_edge.cluster.tile_source import TileSource
from halo_edge.cluster.worker_part import WorkerPart, load_part
from halo_edge.cluster.worker_shards import memory_needed, names, spec_of_tile


def held_of(tiles: Tiles) -> HeldTiles:
    held = HeldTiles(1)
    for tile in (tile for layer in tiles.layers for tile in layer):
        spec = spec_of_tile(WIDTH, tile)
        held.add(tile.sha256, spec.weights(tiles.packed[tile.sha256]), spec.nbytes)
    return held


def test_what_is_kept(tiny_model: Path) -> None:
    tiles = Tiles(tiny_model)
    held, some = held_of(tiles), names(tiles.of(0, 1))
    assert held.nbytes() == 12 * tiles.nbytes
    assert held.nbytes(some) == 6 * tiles.nbytes
    held.keep(some)
    assert held.nbytes() == 6 * tiles.nbytes
    assert held.missing(names(tiles.of(1, 2))) == names(tiles.of(2))
    assert held.get(tiles.layers[0][3].sha256) is None


def test_one_that_is_held_is_not_held_twice(tiny_model: Path) -> None:
    tiles = Tiles(tiny_model)
    held, tile = held_of(tiles), tiles.layers[0][0]
    first, spec = held.get(tile.sha256), spec_of_tile(WIDTH, tile)
    again = spec.weights(tiles.packed[tile.sha256].copy())
    assert held.add(tile.sha256, again, spec.nbytes) is first
    assert held.nbytes() == 12 * tiles.nbytes


def test_memory_needed(tiny_model: Path) -> None:
    tiles = Tiles(tiny_model)
    task = assignment(tiles.of(0, 1, 2))
    assert memory_needed(task, frozenset()) == 9 * tiles.nbytes
    assert memory_needed(task, names(tiles.of(0, 3))) == 6 * tiles.nbytes


class Loads:
    """Parts of one worker, whose disk has what `held` may not."""

    def __init__(self, tiles: Tiles, directory: Path) -> None:
        self.held, self.cache = HeldTiles(1), ShardCache(directory)
        self.tiles, self.fetched = tiles, 0

    def part(self, *which: int) -> WorkerPart:
        task = assignment(self.tiles.of(*which))
        source = TileSource(task, self.cache, self._fetch, self._fetch)
        return load_part(task, self.held, source, self.cache)

    def _fetch(self, whom: str, sha256: str, start: int, stop: int) -> bytes:
        self.fetched += 1
        return self.tiles.piece(whom, sha256, start, stop)


def test_a_part_of_what_is_held_takes_no_loading(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads = Loads(Tiles(tiny_model), tmp_path)
    both, one = loads.part(0, 1), loads.part(2)
    assert loads.fetched == 9

    def never(*_: object) -> None:
        raise AssertionError("read again")

    monkeypatch.setattr(ShardCache, "load", never)
    monkeypatch.setattr("halo_edge.compute.repack._Repacked.fill", never)
    again = loads.part(1, 2)
    x = np.random.default_rng(0).standard_normal((1, WIDTH)).astype(np.float16)
    answers = []
    for part in (both, one, again, loads.part(0)):
        where = np.frombuffer(part.rounds.x_memory, np.uint8).ctypes.data
        ctypes.memmove(where, x.tobytes(), x.nbytes)  # as if it had been received
        answers.append(np.frombuffer(bytes(part.compute(1, 1)), np.float16).astype(np.float32))
    np.testing.assert_allclose(answers[0] + answers[1], answers[2] + answers[3], atol=1e-2)
    assert np.abs(answers[2] - answers[0]).max() > 0.02  # not the same

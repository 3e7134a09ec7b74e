"""Whom a worker asks for a tile."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tests.cluster.assignments import Tiles, assignment

from halo_edge.cluster.messages import Holder
from halo_edge.cluster.shard_cache import ShardCache
from halo_edge.cluster.tile_source import TileSource
from halo_edge.errors import HaloError


class Others:
    """The root, and a peer that may refuse, or give something else. `asked`: in order."""

    def __init__(self, model: Path, directory: Path) -> None:
        self.tiles = Tiles(model)
        self.asked: list[str] = []
        self.peer_refuses = self.peer_lies = self.root_refuses = False
        names = [tile.sha256 for tiles in self.tiles.of(0, 1) for tile in tiles]
        task = assignment(self.tiles.of(0, 1, 2), holders=[Holder("peer", names)])
        self.cache = ShardCache(directory)
        self.source = TileSource(task, self.cache, self._root, self._peer)

    def load(self, which: int, layer: int = 0) -> None:
        tile = self.tiles.layers[layer][which]
        found = self.source.load(tile.sha256, self.tiles.nbytes)
        np.testing.assert_array_equal(found, self.tiles.packed[tile.sha256])

    def _root(self, session: str, sha256: str, start: int, stop: int) -> bytes:
        assert session == "s"
        self.asked.append("root")
        if self.root_refuses:
            raise HaloError("no")
        return self.tiles.piece(session, sha256, start, stop)

    def _peer(self, worker: str, sha256: str, start: int, stop: int) -> bytes:
        self.asked.append(worker)
        if self.peer_refuses:
            raise HaloError("busy")
        piece = self.tiles.piece(worker, sha256, start, stop)
        return bytes(len(piece)) if self.peer_lies else piece


@pytest.fixture
def others(tiny_model: Path, tmp_path: Path) -> Others:
    return Others(tiny_model, tmp_path)


def test_the_disk_first_then_the_peer_then_the_root(others: Others) -> None:
    others.load(0)
    others.load(2)  # which the peer has not got
    others.load(0)
    assert others.asked == ["peer", "root"]
    assert others.source.peer_bytes == others.tiles.nbytes


@pytest.mark.parametrize("how", ["peer_refuses", "peer_lies"])
def test_a_peer_that_does_not_give_it_is_not_asked_again(others: Others, how: str) -> None:
    setattr(others, how, True)
    others.load(0)
    others.load(1)
    assert others.asked == ["peer", "root", "root"]
    assert others.source.peer_bytes == 0


def test_nobody_gives_it(others: Others) -> None:
    others.peer_refuses = others.root_refuses = True
    with pytest.raises(HaloError, match="no"):
        others.load(0)


def test_gently_is_in_small_pieces(others: Others, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("halo_edge.cluster.tile_source.SMALL_PIECE_BYTES", 1000)
    pieces: list[int] = []
    tile, nbytes = others.tiles.layers[0][2], others.tiles.nbytes
    others.source.load_gently(tile.sha256, nbytes, lambda: pieces.append(1))
    assert len(pieces) == len(others.asked) == -(-nbytes // 1000)


def test_what_comes_after_a_piece_may_end_it(others: Others) -> None:
    class EndedError(Exception):
        pass

    def end() -> None:
        raise EndedError

    tile = others.tiles.layers[0][0]
    with pytest.raises(EndedError):
        others.source.load_gently(tile.sha256, others.tiles.nbytes, end)
    assert others.asked == ["peer"]
    assert not list(others.cache.directory.iterdir())

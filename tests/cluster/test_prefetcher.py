"""What a root announces is fetched once, and only until it is assigned."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from tests.cluster.assignments import WIDTH, Tiles

from halo_edge.cluster.messages import Coming
from halo_edge.cluster.prefetcher import Prefetcher
from halo_edge.cluster.shard_cache import ShardCache
from halo_edge.errors import HaloError

DEADLINE_S = 20.0


class Root:
    """Gives tiles while it may."""

    def __init__(self, model: Path, directory: Path) -> None:
        self.tiles, self.cache = Tiles(model), ShardCache(directory)
        self.prefetcher = Prefetcher(self.cache, self._fetch)
        self.may = threading.Event()
        self.may.set()
        self.asked: list[str] = []
        self.sessions: set[str] = set()
        self.refuses = False
        self._changed = threading.Condition()

    def announce(self, *layers: int, session: str = "s", epoch: int = 0) -> None:
        for layer in layers:
            self.prefetcher.take(Coming(session, epoch, WIDTH, self.tiles.layers[layer]))

    def until_asked(self, times: int) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.asked) >= times, DEADLINE_S)

    def until_idle(self) -> None:
        for thread in threading.enumerate():
            if thread.name == "prefetch":
                thread.join(DEADLINE_S)
                assert not thread.is_alive()

    def on_disk(self) -> set[str]:
        return {path.name for path in self.cache.directory.glob("[0-9a-f]*")}

    def _fetch(self, session: str, sha256: str, start: int, stop: int) -> bytes:
        with self._changed:
            self.asked.append(sha256)
            self.sessions.add(session)
            self._changed.notify_all()
        if self.refuses:
            raise HaloError("the root is gone")
        assert self.may.wait(DEADLINE_S)
        return self.tiles.piece(session, sha256, start, stop)


@pytest.fixture
def root(tiny_model: Path, tmp_path: Path) -> Root:
    return Root(tiny_model, tmp_path)


def names(root: Root, *layers: int) -> set[str]:
    return {tile.sha256 for layer in layers for tile in root.tiles.layers[layer]}


def test_what_is_announced_is_fetched_in_order_and_once(root: Root) -> None:
    root.announce(0)
    root.until_idle()
    assert root.on_disk() == names(root, 0)
    root.announce(0, 1)
    root.until_idle()
    assert root.asked == [tile.sha256 for layer in root.tiles.layers[:2] for tile in layer]
    assert root.prefetcher.end("s", 0) == len(root.asked) * root.tiles.nbytes
    assert root.prefetcher.end("s", 0) == 0


def test_an_assignment_ends_it_but_for_the_tile_under_way(
    root: Root, monkeypatch: pytest.MonkeyPatch
) -> None:
    root.may.clear()
    root.announce(0, 1)
    root.until_asked(1)
    with monkeypatch.context() as patch:
        patch.setattr("halo_edge.cluster.prefetcher.END_TIMEOUT_S", 0)
        assert root.prefetcher.end("s", 3) == 0
    root.announce(2, epoch=3)  # which the assignment has overtaken: that loads it
    root.may.set()
    assert root.prefetcher.end("s", 3) == root.tiles.nbytes
    assert root.on_disk() == {root.tiles.layers[0][0].sha256}
    root.announce(2, epoch=4)
    root.until_idle()
    assert root.on_disk() == {root.tiles.layers[0][0].sha256} | names(root, 2)


def test_another_root_is_another_matter(root: Root) -> None:
    root.prefetcher.end("s", 7)
    root.announce(1, session="other")
    root.until_idle()
    assert root.sessions == {"other"}
    assert root.on_disk() == names(root, 1)


def test_a_root_that_refuses_is_not_asked_on(root: Root) -> None:
    root.refuses = True
    root.announce(0)
    root.until_idle()
    assert len(root.asked) == 1
    assert root.prefetcher.end("s", 0) == 0
    root.refuses = False
    root.announce(0, epoch=1)
    root.until_idle()
    assert root.on_disk() == names(root, 0)


def test_there_is_an_end_to_what_it_remembers(root: Root, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("halo_edge.cluster.prefetcher.MAX_TILES", 2)
    root.may.clear()
    root.announce(0, 1, 2)
    root.until_asked(1)
    root.may.set()
    root.until_idle()
    assert 2 <= len(root.asked) <= 3


def test_a_tile_that_makes_no_sense(root: Root) -> None:
    tile = root.tiles.layers[0][0]
    root.prefetcher.take(Coming("s", 0, 1, [tile]))
    root.until_idle()
    assert not root.asked

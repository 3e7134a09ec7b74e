"""Replicas come when nothing else is to be done."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from tests.cluster.assignments import Tiles, assignment

from halo_edge.cluster.held_tiles import HeldTiles
from halo_edge.cluster.replica_loader import ReplicaLoader
from halo_edge.cluster.shard_cache import ShardCache
from halo_edge.cluster.tile_source import TileSource
from halo_edge.cluster.worker_shards import names
from halo_edge.errors import HaloError

DEADLINE_S = 20.0


class Worker:
    """One that has tile 0 of each layer, and is to hold tiles 1 and 2 as well."""

    def __init__(self, model: Path, directory: Path) -> None:
        self.tiles, self.held, self.cache = Tiles(model), HeldTiles(1), ShardCache(directory)
        self.begun = True
        self.room = self.tiles.nbytes * 100
        self.fetched: list[str] = []
        self.refuses = False
        self.told: list[str] = []
        self.changed = threading.Condition()

    def load(self) -> ReplicaLoader:
        task = assignment(self.tiles.of(0), replicas=self.tiles.of(1, 2))
        source = TileSource(task, self.cache, self._fetch, self._fetch)
        return ReplicaLoader(
            task, self.held, source, lambda: self.begun, self._has_room, self._tell
        )

    def until_told(self) -> None:
        with self.changed:
            assert self.changed.wait_for(lambda: bool(self.told), DEADLINE_S)

    def _has_room(self, nbytes: int) -> bool:
        return self.held.nbytes() + nbytes <= self.room

    def _fetch(self, whom: str, sha256: str, start: int, stop: int) -> bytes:
        if self.refuses:
            raise HaloError("the root is gone")
        with self.changed:
            self.fetched.append(sha256)
            self.changed.notify_all()
        return self.tiles.piece(whom, sha256, start, stop)

    def _tell(self, line: str) -> None:
        with self.changed:
            self.told.append(line)
            self.changed.notify_all()


@pytest.fixture
def worker(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Worker:
    for name in ("LOOK_S", "RETRY_S"):
        monkeypatch.setattr(f"halo_edge.cluster.replica_loader.{name}", 0.001)
    return Worker(tiny_model, tmp_path)


def test_they_are_held(worker: Worker) -> None:
    worker.load()
    worker.until_told()
    assert not worker.held.missing(names(worker.tiles.of(1, 2)))
    assert worker.told[0].startswith("holds replicas of 6 tiles: ")
    assert worker.told[0].endswith("0 tiles on disk only")


def test_what_finds_no_room_is_on_disk_until_there_is_some(worker: Worker) -> None:
    worker.room = 2 * worker.tiles.nbytes
    loader = worker.load()
    worker.until_told()
    assert worker.held.nbytes() == worker.room
    assert worker.told[0].endswith("4 tiles on disk only")
    assert len({*worker.fetched}) == 6
    worker.room *= 100
    loader._thread.join(DEADLINE_S)
    assert not loader._thread.is_alive()
    assert not worker.held.missing(names(worker.tiles.of(1, 2)))
    assert len({*worker.fetched}) == 6


def test_not_before_the_epoch_has_begun(worker: Worker) -> None:
    worker.begun = False
    loader = worker.load()
    loader.stop()
    loader._thread.join(DEADLINE_S)
    assert not worker.fetched


def test_but_it_is_not_waited_for_ever(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("halo_edge.cluster.replica_loader.BEGIN_S", 0.01)
    worker.begun = False
    worker.load()
    worker.until_told()
    assert len({*worker.fetched}) == 6


def test_another_assignment_ends_it(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    worker.room = 0
    loader = worker.load()
    worker.until_told()
    assert loader._thread.is_alive()
    loader.stop()
    loader._thread.join(DEADLINE_S)
    assert not loader._thread.is_alive()


def test_a_worker_can_do_without(worker: Worker) -> None:
    worker.refuses = True
    loader = worker.load()
    loader._thread.join(DEADLINE_S)
    assert worker.told == ["no replicas: the root is gone"]


def test_nothing_to_hold(worker: Worker) -> None:
    task = assignment(worker.tiles.of(0))
    source = TileSource(task, worker.cache, worker._fetch, worker._fetch)
    loader = ReplicaLoader(task, worker.held, source, lambda: True, worker._has_room, worker._tell)
    assert not loader._thread.is_alive()
    loader.stop()

"""What a worker's memory is used for."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tests.cluster.assignments import Tiles, assignment
from tests.cluster.test_held_tiles import held_of

from halo_edge.cluster.worker_memory import FREE_SHARE, WorkerMemory
from halo_edge.cluster.worker_shards import names
from halo_edge.plan.device import PROCESS_BYTES

GIB = 1 << 30


class Session:
    """Whose part is tiles 0 and 1 of each layer, and who has a replica of tile 2."""

    def __init__(self, tiles: Tiles) -> None:
        self.held = held_of(tiles)
        self.in_use = names(tiles.of(0, 1))
        self.held.keep(names(tiles.of(0, 1, 2)))
        self.paused = False

    @property
    def memory_bytes(self) -> int:
        return self.held.nbytes()

    def pause(self) -> None:
        self.paused = True


@pytest.mark.parametrize(
    ("room", "fits", "held"),
    [
        (13, True, (0, 1, 2)),  # all of it
        (9, True, (0, 1)),  # without the replica
        (8, False, ()),  # without the part in use
    ],
)
def test_room_for_another_part(
    tiny_model: Path, room: int, fits: bool, held: tuple[int, ...]
) -> None:
    """Of tile 3 of each layer, with tile 2 as its replica."""
    tiles = Tiles(tiny_model)
    session: Any = Session(tiles)
    task = assignment(tiles.of(3), replicas=tiles.of(2))
    memory = WorkerMemory(PROCESS_BYTES + room * tiles.nbytes)
    assert memory.make_room(session, task) is fits
    assert session.paused is not fits
    assert session.held.nbytes() == session.held.nbytes(names(tiles.of(*held)))
    assert not session.held.missing(names(tiles.of(*held)))


def test_what_is_held_already_needs_no_room(tiny_model: Path) -> None:
    tiles = Tiles(tiny_model)
    session: Any = Session(tiles)
    memory = WorkerMemory(PROCESS_BYTES + 9 * tiles.nbytes)
    assert memory.make_room(session, assignment(tiles.of(1, 2)))
    assert session.held.nbytes() == 9 * tiles.nbytes


@pytest.mark.parametrize(
    ("free", "limit", "fits"),
    [
        ((GIB, GIB), GIB, True),
        ((GIB, GIB), 1, False),
        ((int(FREE_SHARE * GIB), GIB), GIB, False),  # somebody else uses the memory
        (None, GIB, False),  # nobody knows
    ],
)
def test_room_for_a_replica(
    monkeypatch: pytest.MonkeyPatch, free: tuple[int, int] | None, limit: int, fits: bool
) -> None:
    monkeypatch.setattr("halo_edge.cluster.worker_memory.available_bytes", lambda: free)
    session: Any = SimpleNamespace(memory_bytes=1000)
    assert WorkerMemory(limit).has_room(session, 1000) is fits

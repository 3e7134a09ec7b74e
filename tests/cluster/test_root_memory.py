"""What a root may use, and what it gets ready beforehand in that."""

from __future__ import annotations

from pathlib import Path

import pytest

from halo_edge.cluster import root_memory
from halo_edge.cluster.limits import Limits
from halo_edge.cluster.root_memory import RootMemory, resident_bytes

GIB = 1 << 30


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """8 GiB, of which 6 are free, and 1 is in use by this process."""
    monkeypatch.setattr(root_memory, "available_bytes", lambda: (6 * GIB, 8 * GIB))
    monkeypatch.setattr(root_memory, "resident_bytes", lambda: 1 * GIB)
    limited(monkeypatch, 8 * GIB)
    return monkeypatch


def limited(monkeypatch: pytest.MonkeyPatch, nbytes: int | None) -> None:
    limits = Limits(cpu_quota=None, memory_bytes=nbytes, cores=(0,), machine="this one")
    monkeypatch.setattr(root_memory, "read_limits", lambda: limits)


@pytest.mark.parametrize(
    ("there", "asked", "planned"),
    [
        (8 * GIB, None, 8 * GIB),
        (8 * GIB, 3 * GIB, 3 * GIB),
        (2 * GIB, 3 * GIB, 2 * GIB),
        (None, 3 * GIB, 3 * GIB),
        (None, None, None),
    ],
)
def test_the_lesser_of_what_there_is_and_what_it_may_use(
    machine: pytest.MonkeyPatch, there: int | None, asked: int | None, planned: int | None
) -> None:
    limited(machine, there)
    assert RootMemory(asked).limits().memory_bytes == planned


@pytest.mark.parametrize(
    ("asked", "wanted", "room"),
    [
        (None, 3 * GIB, True),
        (None, 3 * GIB + 1, False),
        (3 * GIB, 2 * GIB, True),
        (3 * GIB, 2 * GIB + 1, False),
    ],
)
def test_room_for_what_may_not_be_needed(
    machine: pytest.MonkeyPatch, asked: int | None, wanted: int, room: bool
) -> None:
    assert RootMemory(asked).has_room(wanted) is room


def test_a_control_group_has_none(machine: pytest.MonkeyPatch) -> None:
    limited(machine, 7 * GIB)
    assert not RootMemory().has_room(1)
    assert not RootMemory(3 * GIB).has_room(1)


def test_what_this_process_has(tmp_path: Path) -> None:
    assert 1 << 20 < resident_bytes() < 1 << 40
    assert resident_bytes(tmp_path) == float("inf")

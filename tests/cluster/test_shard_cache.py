"""Shards on a worker's disk."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from halo_edge.cluster.shard_cache import PIECE_BYTES, ShardCache
from halo_edge.errors import HaloError
from halo_edge.groups.shard import content_hash

DATA = np.random.default_rng(0).integers(0, 256, PIECE_BYTES + 1000).astype(np.uint8)
NAME = content_hash(DATA)


def fetch(start: int, stop: int) -> bytes:
    return DATA[start:stop].tobytes()


def no_fetch(start: int, stop: int) -> bytes:
    raise AssertionError("it is on disk")


def test_fetched_once(tmp_path: Path) -> None:
    cache = ShardCache(tmp_path / "shards")
    np.testing.assert_array_equal(cache.load(NAME, DATA.nbytes, fetch), DATA)
    np.testing.assert_array_equal(cache.load(NAME, DATA.nbytes, no_fetch), DATA)
    assert (cache.fetched_bytes, cache.cached_bytes) == (DATA.nbytes, DATA.nbytes)


@pytest.mark.parametrize("damage", [lambda b: b[:-1], lambda b: b[:-1] + b"!", lambda b: b""])
def test_damaged_is_fetched_again(tmp_path: Path, damage: object) -> None:
    assert callable(damage)
    cache = ShardCache(tmp_path)
    cache.load(NAME, DATA.nbytes, fetch)
    (tmp_path / NAME).write_bytes(damage(DATA.tobytes()))
    np.testing.assert_array_equal(cache.load(NAME, DATA.nbytes, fetch), DATA)
    assert cache.fetched_bytes == 2 * DATA.nbytes


@pytest.mark.parametrize(
    "wrong",
    [
        lambda start, stop: b"",
        lambda start, stop: fetch(start, stop) + b"more",
        lambda start, stop: bytes(stop - start),
    ],
)
def test_the_wrong_bytes_are_refused_and_not_kept(tmp_path: Path, wrong: object) -> None:
    with pytest.raises(HaloError, match="sent a shard that is not"):
        ShardCache(tmp_path).load(NAME, DATA.nbytes, wrong)  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


def test_prune(tmp_path: Path) -> None:
    for age, name in enumerate(["kept", "newest", "newer", "old", "oldest"]):
        (tmp_path / name).write_bytes(bytes(100))
        os.utime(tmp_path / name, (1e9 - age, 1e9 - age))
    os.utime(tmp_path / "kept", (1, 1))
    ShardCache(tmp_path, limit_bytes=300).prune(frozenset(["kept"]))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["kept", "newer", "newest"]


def test_a_directory_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(HaloError, match="cannot keep shards in"):
        ShardCache(tmp_path / "file" / "shards").load(NAME, DATA.nbytes, fetch)


def test_a_piece_for_a_peer(tmp_path: Path) -> None:
    cache = ShardCache(tmp_path)
    cache.load(NAME, DATA.nbytes, fetch)
    assert cache.piece(NAME, 10, 20) == fetch(10, 20)
    assert cache.piece(NAME, 10, 1 << 48) == fetch(10, 10 + PIECE_BYTES)
    assert cache.piece(NAME, 1 << 40, 1 << 41) == cache.piece(NAME, 20, 10) == b""
    with pytest.raises(HaloError, match="cannot be read"):
        cache.piece("0" * 64, 0, 1)

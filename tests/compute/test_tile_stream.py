"""Which tile is read when. The disk is the test's: it answers when it is told to."""

from __future__ import annotations

import errno
import os
import queue
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from halo_edge.compute import tile_stream
from halo_edge.compute.direct_read import BLOCK_BYTES
from halo_edge.compute.tile_stream import TileFile, TileStream
from halo_edge.errors import HaloError

TIMEOUT_S = 10.0


class Disk:
    """Stands in for `read_file`: a read is told in `asked` and waits in `answers`. Those of
    `broken` tiles fail at once."""

    def __init__(self) -> None:
        self.asked: queue.Queue[int] = queue.Queue()
        self.answers: queue.Queue[None] = queue.Queue()
        self.broken: dict[int, Exception] = {}

    def read(self, path: Path, buffer: NDArray[np.uint8], nbytes: int) -> None:
        tile = int(path.name)
        if tile in self.broken:
            raise self.broken[tile]
        self.asked.put(tile)
        self.answers.get(timeout=TIMEOUT_S)
        buffer[:nbytes] = tile

    def begins(self, tile: int) -> None:
        """The next read that begins is of that tile."""
        assert self.asked.get(timeout=TIMEOUT_S) == tile

    def reads(self, *tiles: int) -> None:
        """The next reads are of these tiles, and are answered."""
        for tile in tiles:
            self.begins(tile)
            self.answers.put(None)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    disk = Disk()
    monkeypatch.setattr(tile_stream, "read_file", disk.read)
    return disk


@contextmanager
def opened(
    disk: Disk, tiles: int, buffers: int, read_timeout_s: float = TIMEOUT_S
) -> Iterator[TileStream]:
    files = [TileFile(Path(str(i)), 100 + i) for i in range(tiles)]
    stream = TileStream(files, buffers * BLOCK_BYTES, read_timeout_s=read_timeout_s)
    try:
        yield stream
    finally:
        for _ in range(buffers + 1):  # as many as it may still want
            disk.answers.put(None)
        stream.close()


def take(stream: TileStream, *tiles: int) -> None:
    """The next tiles are these."""
    for tile in tiles:
        assert (stream.buffers[stream.wait()][: 100 + tile] == tile).all()
        stream.release()


def test_round_and_round_as_far_as_the_buffers_reach(disk: Disk) -> None:
    with opened(disk, tiles=5, buffers=2) as stream:
        disk.reads(0, 1)
        assert stream.buffers[stream.wait()][0] == 0
        assert disk.asked.empty()  # both buffers are full
        for tile in range(12):
            take(stream, tile % 5)
            disk.reads((tile + 2) % 5)
        take(stream, 2)


def test_another_layer_than_the_next(disk: Disk) -> None:
    with opened(disk, tiles=6, buffers=3) as stream:
        disk.reads(0)
        disk.begins(1)
        stream.seek(4)
        disk.answers.put(None)  # 1, which nobody wants any more
        disk.reads(4, 5, 0)
        take(stream, 4, 5)
        stream.seek(0)  # nothing new
        take(stream, 0)
        disk.reads(1, 2)
        disk.begins(3)
        stream.seek(0)  # back: all around
        disk.answers.put(None)
        disk.reads(0)
        take(stream, 0)


def test_what_is_read_and_still_ahead_is_not_read_again(disk: Disk) -> None:
    with opened(disk, tiles=6, buffers=3) as stream:
        disk.reads(0, 1)
        disk.begins(2)
        stream.seek(1)
        take(stream, 1)
        disk.answers.put(None)
        take(stream, 2)
        disk.reads(3)
        take(stream, 3)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError(errno.EIO, os.strerror(errno.EIO)), "from 1: Input/output error"),
        (EOFError("1 ends after 7 of 101 bytes"), "1 ends after 7 of 101 bytes; remove"),
    ],
)
def test_an_error_is_told_when_its_tile_is_wanted(
    disk: Disk, error: Exception, message: str
) -> None:
    """And then tried again whenever it is."""
    with opened(disk, tiles=4, buffers=3) as stream:
        disk.broken[1] = error
        disk.reads(0)
        take(stream, 0)
        for _ in range(3):
            with pytest.raises(HaloError, match=message):
                stream.wait()
        disk.broken.clear()
        disk.answers.put(None)
        take(stream, 1)
        disk.begins(1)
        disk.reads(2)
        take(stream, 2)
        assert stream.loading.bytes_read == 100 + 101 + 102


def test_an_error_of_a_tile_that_is_passed_over_is_nobodys(disk: Disk) -> None:
    disk.broken[0] = OSError(errno.EIO, "bad")
    with opened(disk, tiles=4, buffers=2) as stream:
        with pytest.raises(HaloError):
            stream.wait()
        stream.seek(2)
        disk.reads(2)
        take(stream, 2)


def test_a_disk_that_does_not_answer(disk: Disk) -> None:
    with opened(disk, tiles=3, buffers=2, read_timeout_s=0.01) as stream:
        disk.begins(0)
        with pytest.raises(HaloError, match=r"0 was not read in 0\.01 s; is the disk sound"):
            stream.wait()
        assert stream.loading.waited_s >= 0.01
        disk.answers.put(None)
        disk.begins(1)  # so 0 is there
        take(stream, 0)


def test_close_ends_the_loader(disk: Disk) -> None:
    before = threading.active_count()
    with opened(disk, tiles=3, buffers=2) as stream:
        assert threading.active_count() == before + 1
        disk.reads(0, 1)
        stream.close()
        assert threading.active_count() == before
        take(stream, 0, 1)
        with pytest.raises(HaloError, match="the loader is closed"):
            stream.wait()


def test_close_does_not_wait_for_a_disk_that_hangs(
    disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tile_stream, "END_TIMEOUT_S", 0.01)
    before = threading.active_count()
    with opened(disk, tiles=3, buffers=2) as stream:
        disk.begins(0)
        stream.close()
        assert threading.active_count() == before + 1
        monkeypatch.setattr(tile_stream, "END_TIMEOUT_S", TIMEOUT_S)
    assert threading.active_count() == before


def test_two_tiles_are_the_least(disk: Disk) -> None:
    with pytest.raises(HaloError, match=r"two tiles of 0\.0 MB"), opened(disk, 3, buffers=1):
        pass

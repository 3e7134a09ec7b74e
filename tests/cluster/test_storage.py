"""The bandwidth of storage: what is read for it, and that nothing of it stays."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from halo_edge.cluster import storage
from halo_edge.cluster.storage import MIN_TOTAL_BYTES, SAMPLE_BYTES, read_bandwidth


class Storage:
    """Stands in for the clock, and for a disk that reads so many bytes a second of it."""

    def __init__(self, bytes_per_s: float) -> None:
        self.bytes_per_s = bytes_per_s
        self.now_s = 100.0
        self.read_files: list[tuple[Path, int]] = []

    def monotonic(self) -> float:
        return self.now_s

    def read(self, path: Path, buffer: NDArray[np.uint8], nbytes: int) -> None:
        assert path.stat().st_size >= nbytes
        self.read_files.append((path, nbytes))
        self.now_s += nbytes / self.bytes_per_s


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Storage:
    disk = Storage(40e6)
    monkeypatch.setattr(storage, "read_file", disk.read)
    monkeypatch.setattr(storage.time, "monotonic", disk.monotonic)
    return disk


def fill(directory: Path, *sizes: int) -> list[Path]:
    paths = [directory / f"{i:03}" for i in range(len(sizes))]
    for path, size in zip(paths, sizes, strict=True):
        path.write_bytes(bytes(size))
    return paths


def test_files_that_are_there_are_read(disk: Storage, tmp_path: Path) -> None:
    paths = fill(tmp_path, 1000, *[SAMPLE_BYTES // 2 * 3] * 9, SAMPLE_BYTES // 2)
    assert read_bandwidth(tmp_path) == pytest.approx(40e6)
    assert {path for path, _ in disk.read_files} == set(paths[1:])
    assert {n for _, n in disk.read_files} == {SAMPLE_BYTES // 2, SAMPLE_BYTES}


def test_the_budget_ends_it(disk: Storage, tmp_path: Path) -> None:
    fill(tmp_path, *[SAMPLE_BYTES] * 20)
    disk.bytes_per_s = SAMPLE_BYTES / 0.2
    assert read_bandwidth(tmp_path, budget_s=0.5) == pytest.approx(disk.bytes_per_s)
    assert len(disk.read_files) == 3


def test_files_are_written_where_there_are_too_few(disk: Storage, tmp_path: Path) -> None:
    (path,) = fill(tmp_path, MIN_TOTAL_BYTES * 2)  # one sample of it is not enough
    assert read_bandwidth(tmp_path) == pytest.approx(40e6)
    assert sum(nbytes for _, nbytes in set(disk.read_files)) == MIN_TOTAL_BYTES
    assert all(file.name.startswith(".bandwidth-") for file, _ in disk.read_files)
    assert list(tmp_path.iterdir()) == [path]


def test_for_real(tmp_path: Path) -> None:
    rate = read_bandwidth(tmp_path, budget_s=0.05)
    assert rate is not None
    assert rate > 0
    assert list(tmp_path.iterdir()) == []


def test_no_directory(tmp_path: Path) -> None:
    assert read_bandwidth(tmp_path / "missing") is None


def test_a_disk_that_takes_and_gives_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(storage, "read_file", fail)
    assert read_bandwidth(tmp_path) is None
    assert list(tmp_path.iterdir()) == []

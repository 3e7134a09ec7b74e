"""A benchmark is made once, and a file that is no benchmark is none."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from halo_edge.cluster import benchmark_cache, device_benchmark
from halo_edge.cluster.benchmark_cache import BELIEVED_S, Benchmarks
from halo_edge.cluster.profile_message import BenchmarkTask
from halo_edge.compute.wire import Wire
from halo_edge.errors import HaloError
from halo_edge.lab.profiles import load_profile
from halo_edge.plan.device_profile import DeviceProfile

TASK = BenchmarkTask(
    hidden=128,
    ffn=512,
    gate_type=2,
    up_type=2,
    down_type=8,
    x_wire=Wire.MIXED.x,
    partial_wire=Wire.MIXED.partial,
)
PROFILE = replace(load_profile("pi4"), name="measured", sources={"others": "a test"}, machine=None)


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The threads of each measurement that was made."""
    found: list[int] = []

    def measure(task: BenchmarkTask, threads: int, *, memory_bytes: int) -> DeviceProfile:
        found.append(threads)
        assert memory_bytes <= 1 << 26
        return PROFILE

    monkeypatch.setattr(device_benchmark, "measure_device", measure)
    monkeypatch.setattr(os, "getloadavg", lambda: (0.5, 9.0, 9.0))
    return found


def test_once(tmp_path: Path, made: list[int]) -> None:
    directory = tmp_path / "new"
    assert Benchmarks(directory, 1).of(TASK, None) == PROFILE
    assert Benchmarks(directory, 1).of(TASK, None) == PROFILE
    assert made == [1]
    Benchmarks(directory, 2).of(TASK, None)
    Benchmarks(directory, 1).of(msgspec.structs.replace(TASK, hidden=256), None)
    assert made == [1, 2, 1]


def test_one_of_another_edition_is_not_used(
    tmp_path: Path, made: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    Benchmarks(tmp_path, 1).of(TASK, None)
    monkeypatch.setattr(benchmark_cache, "EDITION", benchmark_cache.EDITION + 1)
    Benchmarks(tmp_path, 1).of(TASK, None)
    assert made == [1, 1]


def test_each_process_finds_out_how_fast_its_storage_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be another one by now, or have another limit."""
    found = iter([40e6, 90e6])
    monkeypatch.setattr(benchmark_cache, "read_bandwidth", lambda directory: next(found))
    first, second = Benchmarks(tmp_path, 1), Benchmarks(tmp_path, 1)
    assert first.storage_bytes_per_s == first.storage_bytes_per_s == 40e6
    assert second.storage_bytes_per_s == 90e6


def test_not_kept_where_others_had_the_processors(
    tmp_path: Path, made: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    monkeypatch.setattr(os, "getloadavg", lambda: (4.0, 0.0, 0.0))
    for _ in range(2):
        assert Benchmarks(tmp_path, 1).of(TASK, None) == PROFILE
    monkeypatch.setattr(os, "getloadavg", lambda: (2.0, 0.0, 0.0))
    for _ in range(2):
        Benchmarks(tmp_path, 1).of(TASK, None)
    assert made == [1, 1, 1]


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(path.read_bytes()[:-5]),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"{}"),
        lambda path: os.utime(path, (1, path.stat().st_mtime - BELIEVED_S - 1)),
        lambda path: os.utime(path, (1, path.stat().st_mtime + 3600)),
        lambda path: path.unlink(),
    ],
)
def test_again(tmp_path: Path, made: list[int], damage: Callable[[Path], None]) -> None:
    Benchmarks(tmp_path, 1).of(TASK, None)
    (path,) = tmp_path.iterdir()
    damage(path)
    assert Benchmarks(tmp_path, 1).of(TASK, None) == PROFILE
    assert made == [1, 1]


def test_a_disk_that_does_not_take_it(tmp_path: Path, made: list[int]) -> None:
    (tmp_path / "file").write_text("")
    benchmarks = Benchmarks(tmp_path / "file" / "below", 1)
    assert benchmarks.of(TASK, None) == PROFILE


def test_what_cannot_be_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def measure(task: BenchmarkTask, threads: int, *, memory_bytes: int) -> DeviceProfile:
        raise HaloError("no loopback")

    monkeypatch.setattr(device_benchmark, "measure_device", measure)
    with pytest.raises(HaloError, match="no loopback"):
        Benchmarks(tmp_path, 1).of(TASK, None)
    assert list(tmp_path.iterdir()) == []

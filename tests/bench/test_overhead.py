"""The benchmark runs and reports; how fast is not for a test to say."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from halo_edge.bench.overhead import CASES, measure
from halo_edge.compute.wire import Wire


def test_all_cases(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HALO_EDGE_CACHE", str(tmp_path))
    cores, told = os.sched_getaffinity(0), list[str]()
    rows = measure(tiny_model, Wire.MIXED, 2, told.append)
    assert os.sched_getaffinity(0) == cores
    assert [row.name for row in rows] == [case.name for case in CASES]
    assert [row.devices for row in rows] == [1, 4, 4, 4]
    assert rows[0].ratio == 1
    assert all(0 < row.tpot_ms_min <= row.tpot_ms <= row.tpot_ms_max for row in rows)
    assert len(told) == 2

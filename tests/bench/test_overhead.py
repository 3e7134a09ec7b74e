"""The benchmarks that need no lab run and report; how fast is not for a test to say."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from halo_edge.bench.experiment import Settings, Size, measure
from halo_edge.bench.overhead import CASES, overhead
from halo_edge.bench.quality import quality


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HALO_EDGE_CACHE", str(tmp_path))


class Undisturbed:
    """What the host does is nothing to a test, which is not to be made three times for it."""

    share = 0.0


def test_overhead(tiny_model: Path) -> None:
    cores = os.sched_getaffinity(0)
    experiment, told = overhead(), list[str]()
    settings = Settings(tiny_model, Size(repetitions=2, tokens=4, limit_s=30))
    undisturbed: Any = Undisturbed
    rows = measure(experiment, settings, told.append, undisturbed).rows
    assert os.sched_getaffinity(0) == cores
    assert [row.name for row in rows] == [case.name for case in CASES]
    assert [row.devices for row in rows] == [1, 4, 4, 4]
    assert rows[0].ratio == 1
    for row in rows:
        assert row.tpot_ms is not None
        assert 0 < row.tpot_ms_min <= row.tpot_ms <= row.tpot_ms_max
        assert row.spent is not None and row.spent.tokens == 8
        assert (row.spent.worker is None) == (row.devices == 1)
    assert len(told) == 1 + 2 * len(CASES)
    assert "root: own FFN" in experiment.table(rows)


def test_quality(tiny_model: Path, tmp_path: Path) -> None:
    """Splitting changes the perplexity of random weights no more than anybody else's."""
    text = tmp_path / "text"
    text.write_text(" ".join(f"the number {i} is followed by {i + 1}." for i in range(300)))
    experiment = quality(text)
    settings = Settings(tiny_model, Size(repetitions=1, tokens=1, limit_s=30), quick=True)
    rows = measure(experiment, settings, lambda _: None).rows
    assert [row.devices for row in rows] == [1, 4, 4]
    # Whatever is lost is recovered, or computed by the root: perhaps with other kernels.
    assert rows[1].ppl == pytest.approx(rows[2].ppl, rel=1e-3)
    assert abs(rows[1].against_one) < 0.01
    assert rows[0].bytes_per_token is None
    assert rows[1].bytes_per_token is not None and rows[1].bytes_per_token > 1000

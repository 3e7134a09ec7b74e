"""What is made of measurements of a worker that reads from a slow disk."""

from __future__ import annotations

import pytest

from halo_edge.bench.decoding import Decoding
from halo_edge.bench.lab_cluster import LabSample
from halo_edge.bench.loading import DEVICES, LOADING, RATES, WORKER, Case, Sample, memory_bytes
from halo_edge.cluster.relaxation import Spent
from halo_edge.cluster.worker_memory import MEMORY_SHARE
from halo_edge.lab.lab import DeviceUsage
from halo_edge.lab.shapes import read_shape
from halo_edge.plan.memory import groups_in, residents
from halo_edge.plan.plan import split

SHAPE = read_shape("tinyllama-1.1b")


def test_half_of_the_share_stays() -> None:
    plan = split(SHAPE.partition.n_groups, [1.0] * DEVICES)
    fits = groups_in(memory_bytes(SHAPE) * MEMORY_SHARE, SHAPE)
    stay = residents(plan.shares, [SHAPE.partition.n_groups, fits, 88, 88], SHAPE)[1]
    assert len(stay) == pytest.approx(len(plan.shares[1]) / 2, abs=1)


def test_only_one_worker_is_limited() -> None:
    spec = Case(40).spec(SHAPE)
    limited = [device for device in spec.devices if device.memory_bytes is not None]
    assert [device.name for device in limited] == [WORKER]
    assert limited[0].storage_bytes_per_s == 40e6
    assert all(device.memory_bytes is None for device in Case(None).spec(SHAPE).devices)


def sample(gap_ms: float, read_mb: float, taken_over: int = 0) -> Sample:
    lab = LabSample(
        Decoding((gap_ms,) * 10), tokens=10, spent=Spent(taken_over_by_device={1: taken_over})
    )
    return Sample(lab, read_mb * 1e6, DeviceUsage(150_000_000, 0), 160_000_000)


def test_rows() -> None:
    taken = {
        Case(None): [sample(100.0, 0.0)],
        Case(40): [sample(1100.0, 40.0), sample(1300.0, 40.0, taken_over=10)],
        Case(400): [sample(110.0, 40.0)],
    }
    free, slow, fast = LOADING.rows(taken)
    assert (free.load_ms, free.ratio) == (None, None)
    assert (slow.load_ms, slow.alone_ms, slow.tpot_ms) == (1000.0, 100.0, 1200.0)
    assert slow.ratio == pytest.approx(1.2)
    assert slow.taken_over == pytest.approx(0.5)
    assert fast.ratio == pytest.approx(1.1)
    assert (fast.peak_mb, fast.limit_mb) == (150.0, 160.0)
    assert "1.20x" in LOADING.table([free, slow, fast])


def test_every_rate_is_measured() -> None:
    assert [case.mb_s for case in LOADING.cases(None)] == [None, *RATES]  # type: ignore[arg-type]


def test_plot() -> None:
    pytest.importorskip("matplotlib")
    rows = LOADING.rows({Case(None): [sample(100.0, 0.0)], Case(90): [sample(500.0, 40.0)]})
    assert LOADING.plot is not None
    assert len(LOADING.plot(rows).axes) == 1

"""Rounds between the ladder and a real worker session; not how long they take."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator

import numpy as np
import pytest

from halo_edge.cluster import bench_session
from halo_edge.cluster.bench_session import BenchSession
from halo_edge.cluster.bench_weights import bench_weights
from halo_edge.cluster.profile_message import BenchmarkTask
from halo_edge.compute.context import aligned
from halo_edge.compute.ffn import FfnGraphs, LayerWeights
from halo_edge.compute.rows import Rows
from halo_edge.compute.runtime import Runtime
from halo_edge.compute.wire import WireFormat
from halo_edge.errors import HaloError
from halo_edge.groups.shard import ShardSpec

HIDDEN, NEURONS, LAYERS, Q4_0 = 256, 64, 2, 2
TASK = BenchmarkTask(
    hidden=HIDDEN,
    ffn=NEURONS,
    gate_type=Q4_0,
    up_type=Q4_0,
    down_type=Q4_0,
    x_wire=WireFormat.F16,
    partial_wire=WireFormat.F16,
)
PIECES = {"encode": 1.0, "round": 2.0, "add": 4.0, "serve": 8.0, "wake": 16.0}
DATAGRAM = {"seal": 32.0, "send": 64.0, "receive": 128.0}


def weights() -> list[LayerWeights]:
    spec = ShardSpec(NEURONS, HIDDEN, Q4_0, Q4_0, Q4_0)
    return [(bench_weights(spec),) for _ in range(LAYERS)]


class Bench:
    def __init__(self) -> None:
        self.x = aligned((1, HIDDEN), np.float32)
        self.out = aligned((1, HIDDEN), np.float32)
        self.x[:] = 1e-3 * np.random.default_rng(0).standard_normal(HIDDEN, np.float32)
        self.runtime = Runtime(1)
        self.session = BenchSession(self.runtime, TASK, self.x, self.out, weights(), weights())


@pytest.fixture
def bench() -> Iterator[Bench]:
    before, threads = os.sched_getaffinity(0), threading.active_count()
    yield Bench()
    assert os.sched_getaffinity(0) == before
    assert threading.active_count() == threads


def test_root_and_worker_compute_and_are_timed(bench: Bench) -> None:
    """Both have the same weights: their sum is twice what one of them computes."""
    with bench.session as session:
        for n in range(6):
            session.round(n % LAYERS)
    total = bench.out.copy()
    FfnGraphs(bench.runtime, weights(), Rows.f32(bench.x), Rows.f32(bench.out)).run(1, 1)
    assert np.allclose(total, 2 * bench.out, rtol=1e-2, atol=1e-2 * np.abs(bench.out).max())
    assert np.abs(bench.out).max() > 0
    assert 1e-5 < session.took_s(warm_up=2) < 0.5


def test_what_its_pieces_would_take(bench: Bench) -> None:
    """x and the partial are of one datagram each."""
    with bench.session as session:
        assert session.pieces_s((PIECES | DATAGRAM).__getitem__) == 31 + 2 * 224


def test_a_loopback_that_carries_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_session, "_STALL_TIMEOUT_S", 0.01)
    monkeypatch.setattr(bench_session.udp.UdpRootLink, "send", lambda *_: None)
    with (
        Bench().session as session,
        pytest.raises(HaloError, match="over loopback has not answered"),
    ):
        session.round(0)

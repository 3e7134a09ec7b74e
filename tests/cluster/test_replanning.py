"""Real workers that die, come back, and join, while steps go on; what is computed never changes."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from halo_edge.cluster.control import ControlOptions, open_control
from halo_edge.cluster.fill_fetch import fetch_fills
from halo_edge.cluster.messages import CONTROL_VERSION, TraceReply, WorkerInfo
from halo_edge.cluster.root import RoundsOptions
from halo_edge.cluster.session import Session, SessionOptions, open_session
from halo_edge.cluster.worker_control import WorkerControl
from halo_edge.cluster.worker_process import WorkerStart
from halo_edge.compute.wire import Wire
from halo_edge.engine.forward import Rows
from halo_edge.engine.kv_cells import SequenceId
from halo_edge.groups.profile import Profile
from halo_edge.sync.ids import DeviceId

PROMPT = [(7 * i) % 250 for i in range(40)]
DEADLINE_S = 60.0


class Workers:
    """Worker processes of a cluster of their own."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.endpoint = f"unixsock-stream/{directory}/control"
        self.running: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str) -> None:
        start = WorkerStart(
            cluster="test",
            connect=[self.endpoint],
            multicast=False,
            name=name,
            address="127.0.0.1",
            cache=str(self._directory / "shards"),
            parent=os.getpid(),
        )
        self.running[name] = subprocess.Popen(
            start.command(),
            stdin=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=start.environment(),
        )

    def kill(self, name: str) -> None:
        process = self.running.pop(name)
        process.kill()
        process.wait()
        assert process.stdin is not None
        process.stdin.close()


@pytest.fixture
def workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Workers]:
    monkeypatch.setenv("HALO_EDGE_CACHE", str(tmp_path / "root"))
    started = Workers(tmp_path)
    yield started
    for name in list(started.running):
        started.kill(name)


@contextmanager
def cluster_of(
    model: Path, workers: Workers, profile: Profile | None = None
) -> Iterator[tuple[Session, list[str]]]:
    """The session, and what the user is told."""
    for name in ("a", "b"):
        workers.start(name)
    control = ControlOptions("test", listen=(workers.endpoint,), multicast=False)
    rounds = RoundsOptions(wire=Wire.F16, profile=profile, rebalance=False)
    told: list[str] = []
    options = SessionOptions(model, 1, 512, 2, control, rounds)
    with open_session(options, tell=told.append) as session:
        yield session, told


def logits(session: Session) -> NDArray[np.float32]:
    rows = [Rows(SequenceId(0), PROMPT, 0, 1)]
    found = session.model.forward.step(rows, session.gather).copy()
    session.model.forward.cells.release(SequenceId(0))
    return found


def go_on(session: Session, until: Callable[[], bool]) -> None:
    """Steps whose results do not change, until something has happened."""
    expected, deadline = logits(session), time.monotonic() + DEADLINE_S
    while not until():
        assert time.monotonic() < deadline
        np.testing.assert_allclose(logits(session), expected, atol=0.02)


def test_a_worker_that_was_started_again_gets_its_work_back(
    tiny_model: Path, workers: Workers
) -> None:
    with cluster_of(tiny_model, workers) as (session, told):
        cluster = session.cluster
        assert cluster is not None
        workers.kill("a")
        go_on(session, lambda: cluster.spent.chunks_taken_over > 0)
        workers.start("a")
        go_on(session, lambda: bool(told))
        assert len(told) == 1
        assert told[0].startswith("a new plan: root ")

        def helped() -> bool:
            """Whether a step takes the root's help."""
            before = cluster.spent.chunks_taken_over
            logits(session)
            return cluster.spent.chunks_taken_over > before

        go_on(session, lambda: not helped())
        assert cluster.plan.n_devices == 3


def test_a_worker_that_joins_gets_its_share(tiny_model: Path, workers: Workers) -> None:
    with cluster_of(tiny_model, workers) as (session, told):
        cluster = session.cluster
        assert cluster is not None
        workers.start("c")
        go_on(session, lambda: bool(told))
        assert told[0].startswith("a new plan: root ")
        go_on(session, lambda: set(cluster.link_reports()) == {1, 2, 3})
        assert all(cluster.plan.shares)


def test_a_worker_of_another_version_does_not_join(tiny_model: Path, workers: Workers) -> None:
    """Nor does it keep others from it."""
    with cluster_of(tiny_model, workers) as (session, told):
        other = open_control(ControlOptions("test", connect=(workers.endpoint,), multicast=False))
        try:
            info = WorkerInfo(
                control_version=CONTROL_VERSION + 1,
                version="9.9",
                worker="w9",
                host="pi",
                addresses=["127.0.0.1"],
                port=1,
                cores=1,
                threads=1,
                memory_bytes=1,
                session="",
            )
            WorkerControl(other, "test", lambda: info, TraceReply, lambda _: b"")
            workers.start("c")
            go_on(session, lambda: bool(told))
        finally:
            other.close()  # type: ignore[no-untyped-call]
    assert told[0].startswith("a new plan: root ")
    assert "c " in told[0]
    assert "w9" not in told[0]


def test_a_plan_of_other_devices_has_their_fills(
    make_model: Callable[..., Path],
    random_profile: Callable[..., Profile],
    workers: Workers,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fetched = []

    def fetch(*arguments: Any) -> dict[DeviceId, NDArray[np.float32]]:
        fetched.append(fetch_fills(*arguments))
        return fetched[-1]

    monkeypatch.setattr("halo_edge.cluster.epochs.fetch_fills", fetch)
    model = make_model(quantization="f32")
    with cluster_of(model, workers, random_profile(model)) as (session, told):
        workers.start("c")
        go_on(session, lambda: bool(told))
        go_on(session, lambda: session.cluster is not None and len(session.cluster.members) == 3)
    assert [set(fills) for fills in fetched] == [{1, 2}, {1, 2, 3}]
    # A smaller share of the neurons makes another fill.
    assert not np.allclose(fetched[0][DeviceId(1)], fetched[1][DeviceId(1)])

"""What people see of a session: of one device, and of a cluster."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from halo_edge.cluster.overview import State
from halo_edge.cluster.replanner import Came
from halo_edge.cluster.root import RoundsOptions
from halo_edge.cluster.session import Session, SessionOptions, open_session
from halo_edge.engine.forward import Rows
from halo_edge.engine.kv_cells import SequenceId
from halo_edge.groups.profile import Profile
from halo_edge.serve.events import Events, Kind
from halo_edge.serve.request import Load
from halo_edge.serve.view import View

LOAD = Load(running=2, waiting=1, kv_used=0.5, kv_kept=0.25)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HALO_EDGE_CACHE", str(tmp_path))


def steps(session: Session, n: int) -> None:
    for i in range(n):
        session.model.forward.step([Rows(SequenceId(0), [5], i, 1)], session.gather)
    session.model.forward.cells.release(SequenceId(0))


def test_one_device(tiny_model: Path) -> None:
    with open_session(SessionOptions(tiny_model, 1, 512, 0)) as session:
        view = View(session, "tiny", Events(), lambda: LOAD)
        view.hear()
        view.look()
        seen = view.now()
    (root,) = seen.devices
    assert (root.name, root.share, root.state) == ("root", 1.0, State.IN_USE)
    assert (seen.model, seen.layers, seen.load) == ("tiny", 3, LOAD)
    assert (seen.tpot_ms, seen.budget, seen.events) == (None, None, ())


def test_a_cluster(tiny_model: Path, random_profile: Callable[..., Profile]) -> None:
    rounds = RoundsOptions(profile=random_profile(tiny_model))
    events = Events()
    with open_session(SessionOptions(tiny_model, 1, 512, 3, None, rounds)) as session:
        view = View(session, "tiny", events, lambda: LOAD)
        steps(session, 20)
        view.hear()
        seen = view.now()
    assert [device.name for device in seen.devices] == ["root", "worker-1", "worker-2", "worker-3"]
    assert [device.first_group for device in seen.devices] == [0, 2, 4, 6]
    assert {device.groups for device in seen.devices} == {2}
    assert {device.share for device in seen.devices} == {0.25}
    assert seen.groups == 8
    assert seen.plan == "root 25 %, worker-1 25 %, worker-2 25 %, worker-3 25 %"
    root, *workers = seen.devices
    assert root.rtt_ms is root.plr_to is None
    for worker in workers:
        assert worker.answer_ms is not None
        assert 0 < worker.answer_ms < 10_000
        assert worker.plr_to is not None
        assert worker.compute_ms is not None
    assert seen.spent.rounds == 20 * 3
    assert msgspec.json.decode(msgspec.json.encode(seen))["devices"][1]["state"] == "in use"


def test_a_stopped_worker_is_away_and_that_is_an_event(tiny_model: Path) -> None:
    events = Events()
    with open_session(SessionOptions(tiny_model, 1, 512, 2)) as session:
        assert session.cluster is not None
        view = View(session, "tiny", events, Load)
        steps(session, 20)
        os.kill(session.local_pids[1], signal.SIGSTOP)
        deadline = time.monotonic() + 30
        try:
            while not session.cluster.away:  # as soon as it has been silent for long enough
                assert time.monotonic() < deadline
                steps(session, 1)
            view.look()
            assert view.now().devices[2].state is State.AWAY
        finally:
            os.kill(session.local_pids[1], signal.SIGKILL)
        session.cluster.noticed(Came("worker-9"))
    told = [(event.kind, event.text.split()[0]) for event in events.recent()]
    assert told[0] == (Kind.AWAY, "worker-2")
    assert (Kind.JOINED, "worker-9") in told

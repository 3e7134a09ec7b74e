"""What is known of a session: states and figures of devices, and where chunks were missing."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from halo_edge.cluster.links import RootLink
from halo_edge.cluster.membership import Came, Left
from halo_edge.cluster.messages import CONTROL_VERSION, Decode, WorkerInfo
from halo_edge.cluster.overview import Members, Own, State, overview_of
from halo_edge.cluster.relaxation import RelaxOptions, Spent
from halo_edge.cluster.root import RoundsOptions
from halo_edge.cluster.session import SessionOptions, open_session
from halo_edge.cluster.speed import DecodeTimes
from halo_edge.engine.forward import Rows
from halo_edge.engine.kv_cells import SequenceId
from halo_edge.groups.profile import Profile
from halo_edge.lab.impairment import ImpairedLink
from halo_edge.lab.link import LinkSettings
from halo_edge.model.synth import SHAPES
from halo_edge.plan.model_shape import ModelShape
from halo_edge.plan.plan import Plan
from halo_edge.sync.ids import DeviceId
from halo_edge.sync.peer import LinkReport

DEADLINE_S = 30.0
SHAPE = ModelShape.of("tiny", SHAPES["tiny"], 0.5625)  # 3 layers, 8 groups
LINK = LinkReport(0.002, 0.003, None, 0.01, 0.02, 0.1, 0.1, 1, 2)


def worker(name: str, **more: Any) -> WorkerInfo:
    fields: dict[str, Any] = {
        "control_version": CONTROL_VERSION,
        "version": "0",
        "worker": name,
        "host": f"{name}.home",
        "addresses": ["127.0.0.1"],
        "port": 7,
        "machine": "",
        "cores": [0],
        "threads": 2,
        "cpu_quota": None,
        "memory_bytes": 10**9,
        "session": "",
    }
    return WorkerInfo(**fields | more)


class Rounds:
    """Of two workers, of which the first has been slow."""

    own_times = DecodeTimes(128, rounds=64, wall_s=0.001)
    budget_fullness = 0.5

    def spent(self) -> Spent:
        return Spent(9, 4, 3, 2, 0.01, filled_by_device={1: 3}, taken_over_by_device={1: 2})

    def recovered_by_device(self) -> Mapping[int, int]:
        return {1: 3, 2: 1}

    def link_reports(self) -> dict[DeviceId, LinkReport]:
        return {DeviceId(1): LINK}


def members(**more: Any) -> Members:
    known = {DeviceId(i): worker(name) for i, name in enumerate("abcd", 1)}
    fields: dict[str, Any] = {"known": known, "ready": {1}, "loading": (), "away": (), "left": ()}
    return Members(**fields | more)


@pytest.mark.parametrize(
    ("changes", "share", "state"),
    [
        ({}, range(2), State.IN_USE),
        ({"away": {1}}, range(2), State.AWAY),
        ({"away": {1}, "left": {"a"}}, range(2), State.LEFT),
        ({"ready": set()}, range(2), State.LOADING),
        ({"ready": set(), "loading": {1}}, range(0), State.LOADING),
        ({"ready": set()}, range(0), State.LEFT_OUT),
        ({"ready": set(), "left": {"a"}}, range(0), State.LEFT),
    ],
)
def test_states(changes: dict[str, Any], share: range, state: State) -> None:
    assert members(**changes).state(DeviceId(1), share) is state


def test_figures_of_the_root_and_of_workers() -> None:
    plan = Plan((range(4), range(4, 7), range(7, 8)), resident=(range(4), range(4, 6), range(7, 8)))
    decode = Decode(neurons=192, rounds=10, wall_s=0.002)
    known = {DeviceId(1): worker("a", decode=decode), DeviceId(2): worker("b", memory_bytes=None)}
    found = overview_of(
        plan,
        SHAPE,
        members(known=known, ready={1, 2}),
        Rounds(),
        {DeviceId(1): 2},
        Own("desk", 4, 8 * 10**9),
    )
    root, a, b = found.devices
    assert (root.name, root.host, root.threads, root.share) == ("root", "desk", 4, 0.5)
    assert root.compute_s == pytest.approx(0.003)
    assert (a.groups, a.share, a.host) == (range(4, 7), 3 / 8, "a.home")
    assert a.compute_s == pytest.approx(0.006)
    assert a.held_bytes == int(2 * SHAPE.group_bytes)  # the third is read from disk
    assert (a.link, a.recovered, a.filled, a.taken_over) == (LINK, 3, 3, 2)
    assert (b.link, b.recovered, b.filled, b.taken_over) == (None, 1, 0, 0)
    assert (a.late, b.late) == (2, 0)
    assert (b.memory_bytes, b.compute_s) == (None, None)
    assert found.plan == "root 50 %, a 38 %, b 12 %"
    assert found.budget_fullness == 0.5


def test_a_worker_that_the_plan_does_not_know_yet() -> None:
    known = {DeviceId(1): worker("a"), DeviceId(5): worker("late")}
    found = overview_of(
        Plan((range(4), range(4, 8))), SHAPE, members(known=known), Rounds(), {}, Own("", 1, None)
    )
    assert [(d.name, d.state, d.share) for d in found.devices] == [
        ("root", State.IN_USE, 0.5),
        ("a", State.IN_USE, 0.5),
        ("late", State.LEFT_OUT, 0.0),
    ]


def test_of_a_session(
    tiny_model: Path,
    random_profile: Callable[..., Profile],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What happened, by place, adds up to what was spent; workers say how they are."""
    monkeypatch.setenv("HALO_EDGE_CACHE", str(tmp_path))
    monkeypatch.setattr("halo_edge.cluster.first_step.IDLE_S", 0.0)

    def lossy(link: RootLink) -> RootLink:
        return ImpairedLink(link, LinkSettings(loss=0.3), seed=5)

    rounds = RoundsOptions(
        profile=random_profile(tiny_model), wrap_link=lossy, relax=RelaxOptions(kl_budget=100.0)
    )
    with open_session(SessionOptions(tiny_model, 1, 512, 2, None, rounds)) as session:
        cluster = session.cluster
        assert cluster is not None
        deadline = time.monotonic() + DEADLINE_S
        while not cluster.relaxable:
            assert time.monotonic() < deadline
            time.sleep(0.01)  # it looks again; nothing is expected of how long that takes
        for i in range(60):
            rows = [Rows(SequenceId(0), [5], i, 1)]
            session.model.forward.step(rows, session.gather)
        happened, spent = cluster.happened(), cluster.spent
        assert spent.chunks_recovered + spent.chunks_filled + spent.chunks_taken_over > 0
        assert sum(happened.recovered.values()) == spent.chunks_recovered
        assert sum(happened.filled.values()) == spent.chunks_filled
        assert sum(happened.taken_over.values()) == spent.chunks_taken_over
        places = {*happened.recovered, *happened.filled, *happened.taken_over}
        assert places <= {(device, layer) for device in (1, 2) for layer in range(3)}
        sketches = cluster.sketches()
        assert sketches is not None
        assert sketches.shape == (3, 4)
        cluster.hear()
        overview = cluster.overview()
        for device in overview.devices:
            assert device.late <= device.filled + device.taken_over
        assert [device.name for device in overview.devices] == ["root", "worker-1", "worker-2"]
        assert all(device.state in (State.IN_USE, State.AWAY) for device in overview.devices)
        assert sum(device.share for device in overview.devices) == pytest.approx(1)
        assert overview.budget_fullness is not None
        assert 0 <= overview.budget_fullness <= 1
        computed = [d.compute_s for d in overview.devices if d.state is State.IN_USE]
        assert all(computed)


def test_who_left_is_told(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HALO_EDGE_CACHE", str(tmp_path))
    with open_session(SessionOptions(tiny_model, 1, 512, 2)) as session:
        cluster, heard = session.cluster, threading.Event()
        assert cluster is not None
        noticed: list[Came | Left] = []

        def notice(change: Came | Left) -> None:
            noticed.append(change)
            heard.set()

        cluster.noticed = notice
        os.kill(session.local_pids[0], signal.SIGKILL)
        assert heard.wait(10)
        assert noticed == [Left("worker-1")]
        first = cluster.overview().devices[1]
        assert (first.name, first.state) == ("worker-1", State.LEFT)

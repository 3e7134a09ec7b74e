"""Real workers that die, come back, and join, while steps go on; what is computed never changes."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from halo_edge.cluster.ahead import repack_ffn
from halo_edge.cluster.control import ControlOptions, open_control
from halo_edge.cluster.fill_fetch import fetch_fills
from halo_edge.cluster.messages import CONTROL_VERSION, TraceReply, WorkerInfo
from halo_edge.cluster.plan_in_use import PlanInUse
from halo_edge.cluster.planner import Planned
from halo_edge.cluster.planner import Workers as Planning
from halo_edge.cluster.profile_message import BenchmarkReply, BenchmarkTask
from halo_edge.cluster.relaxation import RelaxOptions
from halo_edge.cluster.root import RoundsOptions
from halo_edge.cluster.root_memory import RootMemory
from halo_edge.cluster.scheduling import Scheduling
from halo_edge.cluster.session import Session, SessionOptions, open_session
from halo_edge.cluster.worker_control import WorkerControl
from halo_edge.cluster.worker_process import WorkerStart
from halo_edge.compute.ffn import FfnWeights
from halo_edge.compute.repack import WeightStore
from halo_edge.compute.wire import Wire
from halo_edge.engine.forward import Rows
from halo_edge.engine.kv_cells import SequenceId
from halo_edge.errors import HaloError
from halo_edge.groups.profile import Profile
from halo_edge.model.gguf_file import GgufFile
from halo_edge.plan.device import PROCESS_BYTES
from halo_edge.plan.model_shape import ModelShape
from halo_edge.plan.plan import split
from halo_edge.sync.ids import DeviceId

PROMPT = [(7 * i) % 250 for i in range(40)]
DEADLINE_S = 60.0
# Logits of this model move by 0.06 where partials are cut, and so rounded, in other places.
OTHER_PLAN = 0.15


LETS_GO = """
from halo_edge.cluster import worker_control, worker_process
worker_control.LET_GO_AFTER_S = {}
worker_process.main()
"""


class Workers:
    """Worker processes of a cluster of their own."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.endpoint = f"unixsock-stream/{directory}/control"
        self.running: dict[str, subprocess.Popen[bytes]] = {}

    def start(
        self,
        name: str,
        memory_bytes: int | None = None,
        *,
        cache: str = "shards",
        listen: str | None = None,
        connect: Sequence[str] = (),
        let_go_after_s: float | None = None,
    ) -> None:
        """`cache`: its own where it is another's name. `listen`, `connect`: for its peers."""
        start = WorkerStart(
            cluster="test",
            listen=[listen] if listen is not None else [],
            connect=[self.endpoint, *connect],
            multicast=False,
            name=name,
            address="127.0.0.1",
            memory_bytes=memory_bytes,
            cache=str(self._directory / cache),
            parent=os.getpid(),
        )
        command = start.command()
        if let_go_after_s is not None:
            command[1:3] = ["-c", LETS_GO.format(let_go_after_s)]
        self.running[name] = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stderr=(self._directory / f"{name}.log").open("wb"),
            env=start.environment(),
        )

    def said(self, name: str) -> str:
        """On its standard error."""
        return (self._directory / f"{name}.log").read_text()

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
    model: Path,
    workers: Workers,
    profile: Profile | None = None,
    *,
    names: Sequence[str] = ("a", "b"),
    memory_bytes: int | None = None,
    **settings: Any,
) -> Iterator[tuple[Session, list[str]]]:
    """The session, and what the user is told. `memory_bytes`: of the first worker."""
    for name in names:
        if name not in workers.running:
            workers.start(name, memory_bytes if name == names[0] else None)
    control = ControlOptions("test", listen=(workers.endpoint,), multicast=False)
    rounds = RoundsOptions(wire=Wire.F16, profile=profile, **{"scheduled": False} | settings)
    told: list[str] = []
    options = SessionOptions(model, 1, 512, len(names), control, rounds)
    with open_session(options, tell=told.append) as session:
        yield session, told


def logits(session: Session) -> NDArray[np.float32]:
    rows = [Rows(SequenceId(0), PROMPT, 0, 1)]
    found = session.model.forward.step(rows, session.gather).copy()
    session.model.forward.cells.release(SequenceId(0))
    return found


def go_on(session: Session, until: Callable[[], bool], atol: float = OTHER_PLAN) -> None:
    """Steps whose results do not change, until something has happened."""
    expected, deadline = logits(session), time.monotonic() + DEADLINE_S
    while not until():
        assert time.monotonic() < deadline
        np.testing.assert_allclose(logits(session), expected, atol=atol)


def test_a_worker_that_was_started_again_gets_its_work_back(
    tiny_model: Path, workers: Workers
) -> None:
    with cluster_of(tiny_model, workers) as (session, told):
        cluster = session.cluster
        assert cluster is not None
        workers.kill("a")
        go_on(session, lambda: cluster.spent.chunks_taken_over > 0, atol=1e-4)  # the same plan
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


def benchmark(_: BenchmarkTask) -> BenchmarkReply:
    raise HaloError("it has none")


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
                machine="another",
                cores=[0],
                threads=1,
                cpu_quota=None,
                memory_bytes=1,
                session="",
            )
            WorkerControl(
                other,
                "test",
                lambda: info,
                TraceReply,
                lambda _: b"",
                lambda *_: b"",
                benchmark,
                lambda _: None,
            )
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


def memory_for(model: Path, groups: float) -> int:
    """Of a worker that keeps so many groups of every layer, or reads ahead into it."""
    shape = ModelShape.of_file("model", GgufFile.open(model))
    return int(PROCESS_BYTES + groups * shape.group_bytes)


def test_what_does_not_fit_in_memory_is_read_from_disk(
    tiny_model: Path, workers: Workers, tmp_path: Path
) -> None:
    """Half of each layer, which is two tiles, all of them on that one worker."""
    memory = memory_for(tiny_model, 7.5)
    relax = RelaxOptions(take_over=False)  # or the root might help
    settings = {"names": ("a",), "memory_bytes": memory, "split": [0, 1], "relax": relax}
    with cluster_of(tiny_model, workers, **settings) as (session, _):
        assert session.cluster is not None
        assert session.cluster.plan.resident_on(1) == range(4)
        found = [logits(session) for _ in range(3)]
    workers.kill("a")
    with cluster_of(tiny_model, workers, names=("b",), split=[0, 1]) as (session, _):
        assert session.cluster is not None
        assert session.cluster.plan.resident_on(1) == range(8)
        expected = logits(session)
    for each in found:
        np.testing.assert_allclose(each, expected, atol=0.02)


def test_no_memory_for_two_plans_at_once(tiny_model: Path, workers: Workers) -> None:
    """The worker is away while it loads the next part, and the root computes for it."""
    settings = {"names": ("a",), "memory_bytes": memory_for(tiny_model, 4.5)}
    with cluster_of(tiny_model, workers, **settings) as (session, told):
        cluster = session.cluster
        assert cluster is not None
        go_on(session, lambda: cluster.spent.rounds > 0)
        workers.start("c")
        go_on(session, lambda: bool(told))
        assert told[0].startswith("a new plan: root ")
        assert cluster.spent.chunks_taken_over > 0
        before = cluster.spent.chunks_taken_over
        go_on(session, lambda: set(cluster.members) == {1, 2})
        for _ in range(3):
            logits(session)
        assert cluster.spent.chunks_taken_over - before < 3 * 3 * 8


def test_the_root_begins_alone(
    tiny_model: Path, workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before there is a plan, and goes over to that when the workers have their parts."""
    may_plan = threading.Event()

    def plan(scheduling: Scheduling, workers: Planning) -> Planned:
        assert may_plan.wait(DEADLINE_S)
        made(scheduling, workers)
        return Planned(split(8, [1, 2, 1]), "as planned")

    made = Scheduling.plan
    monkeypatch.setattr(Scheduling, "plan", plan)
    monkeypatch.setattr(Scheduling, "better", lambda *_: None)
    with cluster_of(tiny_model, workers, scheduled=True) as (session, told):
        cluster = session.cluster
        assert cluster is not None
        logits(session)
        assert not cluster.members
        assert not told
        may_plan.set()
        go_on(session, lambda: set(cluster.members) == {1, 2})
        for _ in range(3):
            logits(session)
        assert told == ["plan: root 25 %, a 50 %, b 25 %; as planned"]


@pytest.mark.parametrize("room", [True, False])
def test_a_root_alone_repacks_where_there_is_room(
    tiny_model: Path, workers: Workers, monkeypatch: pytest.MonkeyPatch, room: bool
) -> None:
    asked, repacked = [], []

    def has_room(_: RootMemory, nbytes: float) -> bool:
        asked.append(nbytes)
        return room

    def repack(pool: Executor, store: WeightStore, layers: Sequence[FfnWeights]) -> None:
        repacked.append(len(layers))
        repack_ffn(pool, store, layers)

    monkeypatch.setattr(RootMemory, "has_room", has_room)
    monkeypatch.setattr("halo_edge.cluster.epochs.repack_ffn", repack)
    monkeypatch.setattr(Scheduling, "plan", lambda *_: Planned(split(8, [1, 0, 0]), ""))
    monkeypatch.setattr(Scheduling, "better", lambda *_: None)
    with cluster_of(tiny_model, workers, scheduled=True) as (session, _):
        assert np.isfinite(logits(session)).all()
        gguf, layers = session.model.gguf, session.model.params.n_layers
    names = [f"blk.{i}.ffn_{part}.weight" for i in range(layers) for part in ("gate", "up", "down")]
    # First for reading the file ahead.
    whole, ffn = tiny_model.stat().st_size, sum(gguf.tensors[name].nbytes for name in names)
    assert asked == [whole, ffn]
    assert repacked == ([layers] if room else [])


def test_who_is_left_out_gives_its_memory_back(
    tiny_model: Path, workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And loads what it had from its disk when it is wanted again."""
    wanted = [split(8, [2, 3, 3])]
    monkeypatch.setattr(Scheduling, "plan", lambda *_: Planned(wanted[0], ""))
    monkeypatch.setattr(
        Scheduling,
        "better",
        lambda _, plan, *__: Planned(wanted[0], "") if plan.shares != wanted[0].shares else None,
    )
    workers.start("b", let_go_after_s=0.1)
    with cluster_of(tiny_model, workers, scheduled=True) as (session, _):
        cluster = session.cluster
        assert cluster is not None
        go_on(session, lambda: set(cluster.link_reports()) == {1, 2})
        before = logits(session)
        wanted[0] = split(8, [2, 6, 0])
        go_on(session, lambda: "left out of the plan: " in workers.said("b"))
        assert set(cluster.link_reports()) == {1}
        wanted[0] = split(8, [2, 3, 3])
        go_on(session, lambda: set(cluster.link_reports()) == {1, 2})
        np.testing.assert_allclose(logits(session), before, atol=OTHER_PLAN)
    assert "left out" not in workers.said("a")
    assert "assigned 3 layers' shards: 0.0 MB fetched, 0." in workers.said("b").split("left out")[1]


GIB = 1 << 30
TOKENS = 40


def text(
    session: Session,
    until: Callable[[int], None] = lambda _: None,
    expected: Sequence[int] | None = None,
) -> list[int]:
    """Greedy tokens, one a step; `until` is told how many there are. Those `expected`, if any: each
    has to be the likeliest, or as likely but for how another plan rounds. When that begins no test
    decides, so what comes after a tie cannot be asked to be the same of itself."""
    found: list[int] = []
    forward, tokens = session.model.forward, PROMPT
    for n in range(TOKENS):
        until(n)
        start = 0 if not n else len(PROMPT) + n - 1
        rows = [Rows(SequenceId(0), tokens, start, 1)]
        likely = forward.step(rows, session.gather)[-1]
        found.append(int(likely.argmax()) if expected is None else expected[n])
        assert likely.max() - likely[found[-1]] < OTHER_PLAN
        tokens = found[-1:]
    forward.cells.release(SequenceId(0))
    return found


def wait_for(happened: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.01)  # it looks again; nothing is expected of how long that takes


def undisturbed(model: Path) -> list[int]:
    """By this process alone."""
    options = SessionOptions(model, 1, 512, 0)
    with open_session(options) as session:
        return text(session)


@contextmanager
def with_replicas(
    model: Path, workers: Workers, profile: Profile | None = None
) -> Iterator[tuple[Session, list[str]]]:
    """Three workers. Each has half a tile: b's other holder is c; a's, and c's, is b."""
    names = ("a", "b", "c")
    for name in names:
        workers.start(name, GIB)
    with cluster_of(model, workers, profile, names=names, replicas=1) as (session, told):
        logits(session)
        wait_for(lambda: all("holds replicas" in workers.said(name) for name in "bc"))
        yield session, told


def test_who_holds_replicas_goes_on_for_who_is_gone(tiny_model: Path, workers: Workers) -> None:
    """From what is in memory: nothing is fetched, read or repacked; and the text is the same."""
    expected = undisturbed(tiny_model)
    with with_replicas(tiny_model, workers) as (session, told):
        cluster = session.cluster
        assert cluster is not None

        def kill_b(n: int) -> None:
            if n == 10:
                workers.kill("b")
            if n == 20:
                wait_for(lambda: bool(told))

        text(session, kill_b, expected)
        assert set(cluster.members) == {1, 3}
        assert told == ["a new plan: root 25 %, a 25 %, c 50 %; from replicas"]
        before = cluster.spent
        text(session, expected=expected)
        assert not cluster.spent.since(before).taken_over_by_device.get(2)
    for name in ("a", "c"):
        assigned = [line for line in workers.said(name).splitlines() if "assigned" in line]
        assert "0.0 MB fetched, 0.0 MB on disk already" in assigned[1]
        assert not assigned[2:]


def test_a_profile_is_no_reason_to_wait(
    make_model: Callable[..., Path], random_profile: Callable[..., Profile], workers: Workers
) -> None:
    """The fills come afterwards."""
    model = make_model(quantization="f32")
    relax = {"kl_budget": 0.001}
    with with_replicas(model, workers, random_profile(model)) as (session, told):
        cluster = session.cluster
        assert cluster is not None
        cluster.relax(RelaxOptions(**relax))
        go_on(session, lambda: cluster.relaxable, atol=1.0)
        workers.kill("c")
        go_on(session, lambda: bool(told), atol=1.0)
        cluster.relax(RelaxOptions(**relax))

        def assigned() -> int:
            return workers.said("b").count("assigned")

        # In a hurry, and with fills: at the beginning, and again.
        go_on(session, lambda: assigned() == 4, atol=1.0)
        go_on(session, lambda: cluster.relaxable, atol=1.0)
    assert told == ["a new plan: root 25 %, a 25 %, b 50 %; from replicas"]


def test_where_nobody_can_step_in_a_generation_pauses(tiny_model: Path, workers: Workers) -> None:
    """Until the weights are loaded elsewhere; then it goes on to the same text."""
    expected = undisturbed(tiny_model)
    relax = RelaxOptions(take_over=False)
    with cluster_of(tiny_model, workers, relax=relax) as (session, told):
        cluster = session.cluster
        assert cluster is not None

        def kill_a(n: int) -> None:
            if n == 10:
                workers.kill("a")

        text(session, kill_a, expected)
        assert set(cluster.members) == {2}
    assert told == [
        "worker a is gone and nobody else holds its neurons; paused until they are loaded "
        "elsewhere",
        "a new plan: root 50 %, b 50 %",
    ]


def test_a_pause_has_an_end(
    tiny_model: Path, workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("halo_edge.cluster.rounds_ffn.PAUSE_S", 0.2)
    monkeypatch.setattr(PlanInUse, "replace", refuse)
    relax = RelaxOptions(take_over=False)
    with cluster_of(tiny_model, workers, relax=relax) as (session, told):
        workers.kill("a")
        with pytest.raises(HaloError, match="worker a left in the middle"):
            text(session)
    assert "no new plan yet: not now" in told


def refuse(*_: object) -> None:
    raise HaloError("not now")


def test_tiles_come_from_peers(tiny_model: Path, workers: Workers, tmp_path: Path) -> None:
    """Replicas, of those that have them by then."""
    meeting = f"unixsock-stream/{tmp_path}/meeting"
    workers.start("a", GIB, cache="a", listen=meeting)
    wait_for(lambda: "waiting for a root" in workers.said("a"))  # b does not try again soon
    workers.start("b", GIB, cache="b", connect=[meeting])
    wait_for(lambda: "waiting for a root" in workers.said("b"))
    with cluster_of(tiny_model, workers, replicas=1) as (session, _):
        logits(session)  # both are ready
        wait_for(lambda: all("holds replicas" in workers.said(name) for name in "ab"))
    for name in "ab":
        assert "MB came from peers" in workers.said(name)

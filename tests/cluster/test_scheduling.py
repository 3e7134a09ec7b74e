"""The scheduler of a session, asked with what workers say of themselves."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from tests.cluster.worker_infos import info

from halo_edge.cluster.duty_cycle import DutyCycle
from halo_edge.cluster.live_devices import PROBED_ROUNDS, ROUND_TRIPS, LiveDevices
from halo_edge.cluster.measuring import Measured
from halo_edge.cluster.messages import Decode, WorkerInfo
from halo_edge.cluster.root_memory import RootMemory
from halo_edge.cluster.scheduling import IDLE_PROBE_S, Scheduling
from halo_edge.cluster.speed import DecodeTimes, RootClock
from halo_edge.errors import HaloError
from halo_edge.lab.profiles import load_profile
from halo_edge.lab.shapes import read_shape
from halo_edge.plan.link import Link
from halo_edge.plan.memory import bytes_at_root
from halo_edge.plan.observed import Observed
from halo_edge.plan.plan import Plan
from halo_edge.plan.replanning import STEADY_S, Replanning, moved
from halo_edge.plan.workload import Workload
from halo_edge.sync.ids import DeviceId
from halo_edge.sync.peer import LinkReport

SHAPE = replace(read_shape("tinyllama-1.1b"), n_layers=4)
PI4 = load_profile("pi4")
A, B, C = DeviceId(1), DeviceId(2), DeviceId(4)
ROUNDS = 100_000
LINK = Link.alike(rtt_s=0.002)


class Rounds:
    """What rounds say; some more whenever it is asked."""

    own_times = DecodeTimes(0)

    def __init__(self, reports: dict[DeviceId, LinkReport]) -> None:
        self._reports = reports
        self._clock = RootClock()

    @property
    def between(self) -> RootClock:
        self._clock.rounds += 1
        return self._clock

    def link_reports(self) -> dict[DeviceId, LinkReport]:
        return self._reports


class Session:
    """`known`: what workers say when they are asked."""

    def __init__(self, memory: RootMemory | None = None) -> None:
        self.known: dict[str, WorkerInfo] = {}
        self.measured: list[str] = []
        self.probed: list[str] = []
        self.rtt, self.idle_link = 0.002, LINK
        self.devices = LiveDevices(SHAPE, PI4, threads=1)
        replanning = Replanning(Workload(SHAPE))
        self.scheduling = Scheduling(
            lambda: self.devices, replanning, self, self._ask, memory or RootMemory()
        )
        self.scheduling.rounds = Rounds({})

    def device(self, worker: WorkerInfo) -> Measured:
        self.measured.append(worker.worker)
        if worker.worker == "silent":
            raise HaloError("it does not answer")
        return Measured(PI4, 40e6, LINK)

    def link(self, worker: WorkerInfo) -> Link:
        self.probed.append(worker.worker)
        return self.idle_link

    def rtt_s(self, worker: WorkerInfo) -> float:
        return self.rtt

    def _ask(self, name: str) -> WorkerInfo:
        if name not in self.known:
            raise HaloError("it does not answer")
        return self.known[name]


@pytest.fixture
def session() -> Session:
    return Session()


def test_workers_are_measured_once_and_numbers_have_gaps(session: Session) -> None:
    first = session.scheduling.plan({A: info("a"), B: info("b")})
    second = session.scheduling.plan({B: info("b"), C: info("c")})
    assert sorted(session.measured) == ["a", "b", "c"]
    assert first.plan.n_devices == 3
    assert all(first.plan.shares)
    assert second.plan.n_devices == 5
    assert [bool(share) for share in second.plan.shares] == [True, False, True, False, True]
    assert second.words.startswith("predicted TPOT ")


def test_a_worker_that_cannot_be_measured_is_like_the_root(session: Session) -> None:
    found = session.scheduling.plan({A: info("silent"), B: info("b")})
    assert found.plan.shares[A]
    silent, b = session.devices.cluster([A, B]).devices[1:]
    assert silent.profile == b.profile
    assert silent.link.up.delay_s == 0


def test_a_worker_of_no_use_is_named(session: Session) -> None:
    found = session.scheduling.plan({A: info("a"), B: info("b", cpu_quota=0.02)})
    assert not found.plan.shares[B]
    assert "without b (with: " in found.words


def test_rounds_say_that_a_worker_is_slow(session: Session) -> None:
    """Its own clock does, and nobody else's word; and one that does not answer is as it was."""
    workers = {A: info("a"), B: info("b"), C: info("c")}
    made = session.scheduling.plan(workers)
    neurons = 64 * len(made.plan.shares[B])
    slow = Decode(neurons=neurons, rounds=ROUNDS, cpu_s=0.2, wall_s=0.2)
    session.known = {"b": info("b", decode=slow)}
    assert session.scheduling.better(made.plan, workers, 0.0) is None
    better = session.scheduling.better(made.plan, workers, STEADY_S)
    assert better is not None
    assert len(better.plan.shares[B]) < len(made.plan.shares[B]) / 2
    assert len(better.plan.shares[A]) > 0


def test_a_quota_that_changes(session: Session) -> None:
    workers = {A: info("a"), B: info("b")}
    made = session.scheduling.plan(workers)
    session.known = {"b": info("b", cpu_quota=0.1)}
    session.scheduling.better(made.plan, workers, 0.0)
    better = session.scheduling.better(made.plan, workers, STEADY_S)
    assert better is not None
    assert len(better.plan.shares[B]) < len(made.plan.shares[B])


def test_links(session: Session) -> None:
    """What rounds know of losses, and of round trips the shortest of the last."""
    workers = {A: info("a"), B: info("b")}
    session.scheduling.plan(workers)
    before = session.devices.cluster([A]).devices[1].link
    assert before == LINK
    session.scheduling.rounds = Rounds(
        {A: LinkReport(0.1, 0.008, None, 0.1, 0.2, 0.3, 0.1, 1, 1), B: LinkReport(*_quiet())}
    )
    session.known = {"a": info("a", decode=Decode(neurons=640, rounds=ROUNDS))}
    session.rtt = 0.008
    plan = session.scheduling.plan(workers).plan
    for now in range(1, ROUND_TRIPS + 1):  # the plan has asked once
        a, b = (device.link for device in session.devices.cluster([A, B]).devices[1:])
        assert a.up.delay_s + a.down.delay_s == pytest.approx(0.002 if now < ROUND_TRIPS else 0.008)
        session.scheduling.better(plan, workers, float(now))
    found = (a.down.loss, a.down.again, a.up.loss, a.up.again)
    assert found == pytest.approx((0.1, 0.3, 0.2, 0.2), rel=1e-3)
    assert b.up.delay_s == LINK.up.delay_s


def test_losses_that_a_probe_found_count_for_some_rounds(session: Session) -> None:
    session.idle_link = Link.alike(rtt_s=0.002, loss=0.2)
    session.scheduling.plan({A: info("a")})
    session.devices.probed(A, session.idle_link)
    report = LinkReport(*_quiet())  # nothing is lost
    for rounds, loss in ((0, 0.2), (PROBED_ROUNDS, 0.1), (3 * PROBED_ROUNDS, 0.05)):
        told = Decode(neurons=640, rounds=rounds, cpu_s=0.005, wall_s=0.005)
        session.devices.worker(A, info("a", decode=told), report)
        link = session.devices.cluster([A]).devices[1].link
        assert link.up.loss == link.down.loss == pytest.approx(loss)


def test_who_has_no_share_is_probed_now_and_then(session: Session) -> None:
    """A link that is good again is found out, and used."""
    workers = {A: info("a"), B: info("b"), C: info("c")}
    made = session.scheduling.plan({A: workers[A]})
    session.scheduling.plan(workers)  # the others are known, and have no part in the plan in use
    session.known = {"a": workers[A], "b": workers[B]}
    session.idle_link = Link.alike(rtt_s=0.004, bytes_per_s=1e6, loss=0.1)
    for now in (0.0, IDLE_PROBE_S - 1):
        session.scheduling.better(made.plan, workers, now)
    assert session.probed == []
    session.scheduling.better(made.plan, workers, IDLE_PROBE_S)
    session.scheduling.better(made.plan, workers, IDLE_PROBE_S + 1)
    assert session.probed == ["b"], "once, and nobody who does not answer"
    session.known["c"] = workers[C]
    session.scheduling.better(made.plan, workers, 2 * IDLE_PROBE_S)
    session.probed.clear()
    session.scheduling.better(made.plan, workers, 3 * IDLE_PROBE_S)
    assert session.probed == ["b"], "one at a time"
    session.scheduling.better(made.plan, workers, 3 * IDLE_PROBE_S + 1)
    assert session.probed == ["b", "c"]
    a, b = (device.link for device in session.devices.cluster([A, B]).devices[1:])
    assert (b.up.loss, b.up.bytes_per_s) == (0.1, 1e6)
    assert a.up.loss == 0


def _quiet() -> tuple[Any, ...]:
    return (None, None, None, 0.0, 0.0, 0.0, 0.0, 1, 1)


def test_devices_of_one_machine_share_its_cores(session: Session) -> None:
    same = {"machine": "pi", "cores": [0, 1]}
    session.scheduling.plan({A: info("a", **same), B: info("b", **same), C: info("c")})
    a, b, c = (device.cores for device in session.devices.cluster([A, B, C]).devices[1:])
    assert a is not None
    assert (a, a.count) == (b, 2)
    assert c is None
    assert session.devices.cluster([A, C]).devices[1].cores is None


def test_another_epoch_begins_with_no_rounds(session: Session) -> None:
    """What it says of them counts as often as they are new."""
    session.scheduling.plan({A: info("a")})
    expected = Observed("a", PI4, SHAPE)
    for rounds, new in ((100, 100), (160, 60), (160, 0), (30, 30)):
        told = Decode(neurons=640, rounds=rounds, cpu_s=0.005, wall_s=0.005)
        session.devices.worker(A, info("a", decode=told), None)
        expected.ffn(640, 0.005, 0.005, new)
        assert session.devices.cluster([A]).devices[1].profile == expected.device().profile


def test_a_worker_without_memory(session: Session) -> None:
    small = info("a", memory_bytes=1)
    found = session.scheduling.plan({A: small})
    assert not found.plan.shares[A]


def test_a_root_that_may_use_less_memory_than_there_is() -> None:
    """It cannot begin alone, and has no more groups than fit."""
    few = RootMemory(int(bytes_at_root(2, Workload(SHAPE))))
    n_groups = SHAPE.partition.n_groups
    assert Session().scheduling.alone() == Plan((range(n_groups),))
    session = Session(few)
    assert session.scheduling.alone() is None
    root, worker = session.scheduling.plan({A: info("a")}).plan.shares
    assert len(root) <= 2
    assert len(root) + len(worker) == n_groups


def test_what_rounds_take_beside_the_ffn(session: Session) -> None:
    """Twice what was thought: the next plan knows. And no round trip is longer than an answer."""
    workers = {A: info("a")}
    plan = session.scheduling.plan(workers).plan
    neurons = 64 * len(plan.shares[A])
    before = session.devices.cluster([A]).devices[1].profile.serve_s
    told = Decode(neurons, ROUNDS, cpu_s=0.005, wall_s=0.005, round_cpu_s=0.02)
    session.known = {"a": info("a", decode=told)}
    report = LinkReport(None, 0.03, 0.0205, 0.0, 0.0, 0.0, 0.0, 1, 1)
    session.scheduling.rounds = Rounds({A: report})
    session.scheduling.better(plan, workers, 0.0)
    device = session.devices.cluster([A]).devices[1]
    assert device.profile.serve_s > 2 * before
    assert device.link.up.delay_s + device.link.down.delay_s == pytest.approx(0.0005)


def test_a_root_alone_learns_nothing_of_what_rounds_take_it(session: Session) -> None:
    """It encodes x for nobody, and waits for nobody."""
    workers = {A: info("a")}
    session.scheduling.plan(workers)
    before = session.devices.cluster([A]).root.profile
    rounds = Rounds({})
    rounds.own_times = DecodeTimes(SHAPE.ffn, ROUNDS, cpu_s=0.05, wall_s=0.05)
    rounds.between.round_s = 0.05 + 1e-6
    session.scheduling.rounds = rounds
    alone = Plan((range(SHAPE.partition.n_groups), range(0)))
    session.scheduling.better(alone, workers, 0.0)
    after = session.devices.cluster([A]).root.profile
    assert (after.encode_s, after.receive_s) == (before.encode_s, before.receive_s)


def test_nothing_is_planned_while_nothing_is_computed(session: Session) -> None:
    workers = {A: info("a"), B: info("b")}
    plan = session.scheduling.plan(workers).plan
    session.scheduling.rounds = None
    session.known = {"b": info("b", cpu_quota=0.1)}
    for now in range(10):
        assert session.scheduling.better(plan, workers, float(now)) is None


def test_another_plan_knows_what_was_said_since(session: Session) -> None:
    """Not what a worker said when it joined; nor is that believed of one that does not answer."""
    workers = {A: info("a"), B: info("b")}
    session.scheduling.plan(workers)
    session.known = {"a": info("a", cpu_quota=0.25)}
    session.scheduling.plan(workers | {C: info("c")})
    session.known = {}
    session.scheduling.plan(workers)
    assert session.devices.cluster([A, B]).devices[1].speed == 0.25


def test_who_is_gone_is_inherited_from(session: Session) -> None:
    """By who holds replicas; and nobody is asked."""
    workers = {A: info("a"), B: info("b"), C: info("c")}
    made = session.scheduling.plan(workers).plan
    assert made.replicas_on(A)
    session.measured.clear()
    left = {A: workers[A], C: workers[C]}
    found = session.scheduling.inherited(made, left)
    assert found is not None
    assert found.words == "from replicas"
    assert moved(made, found.plan) == []
    assert B in made.workers and B not in found.plan.workers
    assert session.measured == []
    bare = replace(made, replicas=())
    assert session.scheduling.inherited(bare, left) is None


def test_it_rests_for_rounds(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there are none nobody waits."""
    rests: list[None] = []
    monkeypatch.setattr(DutyCycle, "rest", lambda _: rests.append(None))
    rounds, session.scheduling.rounds = session.scheduling.rounds, None
    session.scheduling.plan({A: info("a")})
    assert not rests
    session.scheduling.rounds = rounds
    session.scheduling.plan({A: info("a"), B: info("b")})
    assert rests

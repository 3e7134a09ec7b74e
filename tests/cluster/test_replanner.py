"""What a session's replanner does, with workers that only say who they are."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from halo_edge.cluster.membership import Came, Left, Needed
from halo_edge.cluster.messages import CONTROL_VERSION, WorkerInfo
from halo_edge.cluster.planner import Planned, Workers
from halo_edge.cluster.replanner import Replanner
from halo_edge.errors import HaloError
from halo_edge.plan.plan import Plan, split
from halo_edge.sync.ids import DeviceId

SESSION = "ours"
DEADLINE_S = 20.0
GROUPS = 12


def info(name: str, session: str = SESSION) -> WorkerInfo:
    return WorkerInfo(
        control_version=CONTROL_VERSION,
        version="1",
        worker=name,
        host="here",
        addresses=["127.0.0.1"],
        port=1,
        machine="this one",
        cores=[0],
        threads=1,
        cpu_quota=None,
        memory_bytes=1,
        session=session,
    )


class Cluster:
    """Workers a and b in `plan`. A `Planner` that gives all the same, but for `without`."""

    def __init__(self, plan: Plan) -> None:
        self.known = {"a": info("a"), "b": info("b")}
        self.carried_out: list[list[str]] = []
        self.told: list[str] = []
        self.hurried: list[list[str]] = []
        self.replicas = False
        self.away: set[DeviceId] = set()
        self.fails = 0
        self.planned_times = 0
        self.without: set[str] = set()
        self.another: Planned | None = None
        self.asked_for_better = 0
        self._changed = threading.Condition()
        workers = {DeviceId(1): self.known["a"], DeviceId(2): self.known["b"]}
        self.replanner = Replanner(
            SESSION,
            workers,
            plan,
            self,
            self._ask,
            self._carry_out,
            self._hurry,
            self.told.append,
            lambda _: self.away,
        )

    def until(self, happened: Callable[[], bool]) -> None:
        with self._changed:
            assert self._changed.wait_for(happened, DEADLINE_S)

    def plan(self, workers: Workers) -> Planned:
        weights = [0.0] * (max(workers) + 1)
        weights[0] = 1.0
        for device, worker in workers.items():
            weights[device] = float(worker.worker not in self.without)
        return Planned(split(GROUPS, weights), "as they are")

    def inherited(self, plan: Plan, workers: Workers) -> Planned | None:
        if not self.replicas:
            return None
        return replace(self.plan(workers), words="from replicas")

    def better(self, plan: Plan, workers: Workers, now: float) -> Planned | None:
        with self._changed:
            another, self.another = self.another, None
            self.asked_for_better += 1
            self._changed.notify_all()
        return another

    def planned(self, now: float) -> None:
        with self._changed:
            self.planned_times += 1
            self._changed.notify_all()

    def _ask(self, name: str) -> WorkerInfo:
        if name not in self.known:
            raise HaloError("it does not answer")
        return self.known[name]

    def _hurry(self, plan: Plan, workers: Workers) -> bool:
        self.hurried.append([workers[DeviceId(d)].worker for d in plan.workers])
        return True

    def _carry_out(self, plan: Plan, workers: Workers) -> None:
        with self._changed:
            self.carried_out.append([workers[DeviceId(d)].worker for d in plan.workers])
            self._changed.notify_all()
            if self.fails:
                self.fails -= 1
                raise HaloError("it would not")


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("halo_edge.cluster.replanner.POLL_S", 0.01)
    monkeypatch.setattr("halo_edge.plan.admission.GONE_AFTER_S", 0.05)
    monkeypatch.setattr("halo_edge.plan.admission.RETRY_AFTER_S", 0.05)
    monkeypatch.setattr("halo_edge.plan.silence.SILENT_S", 0.05)
    monkeypatch.setattr("halo_edge.plan.silence.ASK_AGAIN_S", 0.05)


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    found = Cluster(split(GROUPS, [1, 1, 1]))
    found.replanner.follow()
    yield found
    found.replanner.close()


@pytest.fixture
def alone() -> Iterator[Cluster]:
    """The root is, and nobody has asked for a plan yet."""
    found = Cluster(Plan((range(GROUPS),)))
    yield found
    found.replanner.close()


def test_who_begins_alone_gets_a_plan(alone: Cluster) -> None:
    alone.replanner.plan_and_follow(lambda: 2)
    alone.until(lambda: alone.planned_times == 1)
    assert alone.carried_out == [["a", "b"]]
    assert alone.told == ["plan: root 33 %, a 33 %, b 33 %; as they are"]


def test_what_was_left_out_in_a_hurry_comes_after_the_first_step() -> None:
    steps, asked = 1, threading.Semaphore(0)

    def begun_steps() -> int:
        asked.release()
        return steps

    found = Cluster(split(GROUPS, [1, 1, 1]))
    found.replanner.complete_and_follow(begun_steps)
    for _ in range(3):
        assert asked.acquire(timeout=DEADLINE_S)
    assert not found.carried_out
    steps = 2
    found.until(lambda: len(found.carried_out) == 1)
    found.another = Planned(split(GROUPS, [1, 4, 1]), "it is better")
    found.until(lambda: found.planned_times == 1)
    found.replanner.close()
    assert found.carried_out == 2 * [["a", "b"]]
    assert found.told == ["a new plan: root 17 %, a 67 %, b 17 %; it is better"]


def test_who_is_needed_in_the_first_step_is_replaced_in_it() -> None:
    found = Cluster(split(GROUPS, [1, 1, 1]))
    found.replanner.complete_and_follow(lambda: 1)
    found.replanner.put(Needed("a"))
    found.until(lambda: ["b"] in found.carried_out)
    found.replanner.close()


def test_the_first_step_is_left_alone(alone: Cluster) -> None:
    steps, asked = 1, threading.Semaphore(0)

    def begun_steps() -> int:
        asked.release()
        return steps

    alone.replanner.plan_and_follow(begun_steps)
    for _ in range(3):
        assert asked.acquire(timeout=DEADLINE_S)
    assert not alone.told
    steps = 2
    alone.until(lambda: alone.planned_times == 1)


@pytest.mark.parametrize(("steps", "limit"), [(0, "IDLE_S"), (1, "FIRST_STEP_S")])
def test_the_first_step_is_waited_for_only_so_long(
    alone: Cluster, monkeypatch: pytest.MonkeyPatch, steps: int, limit: str
) -> None:
    monkeypatch.setattr(f"halo_edge.cluster.first_step.{limit}", 0.01)
    alone.replanner.plan_and_follow(lambda: steps)
    alone.until(lambda: alone.planned_times == 1)


def test_who_is_best_alone_is_made_ready_to_stay_so(alone: Cluster) -> None:
    alone.without = {"a", "b"}
    alone.replanner.plan_and_follow(lambda: 2)
    alone.until(lambda: alone.planned_times == 1)
    assert alone.carried_out == [[]]
    alone.another = Planned(Plan((range(GROUPS),)), "the same")
    alone.until(lambda: alone.planned_times == 2)
    assert alone.carried_out == [[]]


def test_a_first_plan_that_fails_is_tried_again(alone: Cluster) -> None:
    alone.fails = 2
    alone.replanner.plan_and_follow(lambda: 2)
    alone.until(lambda: alone.planned_times == 3)
    assert alone.carried_out == 3 * [["a", "b"]]
    assert alone.told[1:3] == 2 * ["no new plan yet: it would not"]
    assert len(alone.told) == 4


def test_a_better_plan_is_carried_out(cluster: Cluster) -> None:
    cluster.another = Planned(split(GROUPS, [1, 4, 1]), "it is better")
    cluster.until(lambda: cluster.planned_times == 1)
    assert cluster.carried_out == [["a", "b"]]
    assert cluster.told == ["a new plan: root 17 %, a 67 %, b 17 %; it is better"]


def test_who_left_is_planned_without_and_who_came_with(cluster: Cluster) -> None:
    del cluster.known["a"]
    cluster.replanner.put(Left("a"))
    cluster.until(lambda: len(cluster.carried_out) == 1)
    cluster.known |= {"c": info("c", session=""), "d": info("d", session="of another root")}
    cluster.replanner.put(Came("d"))
    cluster.replanner.put(Came("e"))  # gone again
    cluster.replanner.put(Came("c"))
    cluster.until(lambda: len(cluster.carried_out) == 2)
    assert cluster.carried_out == [["b"], ["b", "c"]]


def test_the_same_plan_moves_nothing(cluster: Cluster) -> None:
    """A worker comes that is of no use, and goes again."""
    cluster.without = {"c"}
    cluster.known["c"] = info("c", session="")
    cluster.replanner.put(Came("c"))
    cluster.until(lambda: cluster.planned_times == 1)
    cluster.replanner.put(Came("c"))  # started anew, without a part: it had none
    cluster.replanner.put(Left("c"))
    cluster.until(lambda: cluster.planned_times == 2)
    assert cluster.carried_out == []
    assert cluster.told == []


def test_who_was_started_again_gets_its_part_again(cluster: Cluster) -> None:
    cluster.known["a"] = info("a", session="")
    cluster.replanner.put(Came("a"))
    cluster.until(lambda: cluster.planned_times == 1)
    assert cluster.carried_out == [["a", "b"]]


def test_a_plan_that_failed_is_tried_again(cluster: Cluster) -> None:
    cluster.fails = 1
    cluster.known["c"] = info("c", session="")
    cluster.replanner.put(Came("c"))
    cluster.until(lambda: len(cluster.carried_out) == 2)
    assert cluster.told[0] == "no new plan yet: it would not"


def test_nothing_happens_after_the_end(cluster: Cluster) -> None:
    cluster.replanner.close()
    cluster.known["c"] = info("c", session="")
    cluster.replanner.put(Came("c"))
    assert all(thread.name != "replanner" for thread in threading.enumerate())


def test_who_holds_replicas_goes_on_at_once(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a hurry at first, then with all there is to it."""
    monkeypatch.setattr("halo_edge.plan.admission.GONE_AFTER_S", DEADLINE_S)
    cluster.replicas = True
    cluster.replanner.put(Left("a"))
    cluster.until(lambda: len(cluster.carried_out) == 1)
    assert cluster.hurried == cluster.carried_out == [["b"]]
    assert cluster.told == ["a new plan: root 50 %, b 50 %; from replicas"]


def test_when_somebody_leaves_nothing_is_computed_for_a_better_plan(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At once, that is: who stands in has enough to do."""
    monkeypatch.setattr("halo_edge.plan.admission.GONE_AFTER_S", DEADLINE_S)
    cluster.until(lambda: cluster.asked_for_better > 0)
    monkeypatch.setattr("halo_edge.cluster.replanner.POLL_S", DEADLINE_S)
    inherited = threading.Event()

    def nobody_can(*_: object) -> None:
        inherited.set()

    monkeypatch.setattr(cluster, "inherited", nobody_can)
    cluster.replanner.put(Left("a"))
    assert inherited.wait(DEADLINE_S)
    before = cluster.asked_for_better
    cluster.known["c"] = info("c", session="")
    cluster.replanner.put(Came("c"))
    cluster.until(lambda: cluster.planned_times == 1)
    assert cluster.asked_for_better == before


def test_what_nobody_computes_is_planned_without_at_once(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("halo_edge.plan.admission.GONE_AFTER_S", DEADLINE_S)
    cluster.replanner.put(Needed("a"))
    cluster.until(lambda: len(cluster.carried_out) == 1)
    assert cluster.carried_out == [["b"]]
    assert cluster.hurried == []


def test_a_host_that_vanishes_without_a_word(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It answers no rounds for long, and is planned without; and is let in when it answers."""
    monkeypatch.setattr("halo_edge.plan.admission.AGAIN_AFTER_S", 0.0)
    b = cluster.known.pop("b")
    cluster.away = {DeviceId(2)}
    cluster.until(lambda: cluster.carried_out == [["a"]])
    cluster.away = set()
    cluster.known["b"] = b
    cluster.until(lambda: cluster.carried_out == [["a"], ["a", "b"]])

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
    """Workers a and b in the plan. A `Planner` that gives all the same, but for `without`."""

    def __init__(self) -> None:
        self.known = {"a": info("a"), "b": info("b")}
        self.carried_out: list[list[str]] = []
        self.told: list[str] = []
        self.hurried: list[list[str]] = []
        self.replicas = False
        self.fails = 0
        self.planned_times = 0
        self.without: set[str] = set()
        self.another: Planned | None = None
        self._changed = threading.Condition()
        workers = {DeviceId(1): self.known["a"], DeviceId(2): self.known["b"]}
        self.replanner = Replanner(
            SESSION,
            workers,
            split(GROUPS, [1, 1, 1]),
            self,
            self._ask,
            self._carry_out,
            self._hurry,
            self.told.append,
        )
        self.replanner.follow()

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
        another, self.another = self.another, None
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


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    monkeypatch.setattr("halo_edge.cluster.replanner.POLL_S", 0.01)
    monkeypatch.setattr("halo_edge.plan.admission.GONE_AFTER_S", 0.05)
    monkeypatch.setattr("halo_edge.plan.admission.RETRY_AFTER_S", 0.05)
    found = Cluster()
    yield found
    found.replanner.close()


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


def test_what_nobody_computes_is_planned_without_at_once(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("halo_edge.plan.admission.GONE_AFTER_S", DEADLINE_S)
    cluster.replanner.put(Needed("a"))
    cluster.until(lambda: len(cluster.carried_out) == 1)
    assert cluster.carried_out == [["b"]]
    assert cluster.hurried == []

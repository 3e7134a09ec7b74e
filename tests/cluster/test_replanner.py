"""What a session's replanner does, with workers that only say who and how fast they are."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping

import pytest

from halo_edge.cluster.messages import CONTROL_VERSION, WorkerInfo
from halo_edge.cluster.replanner import Came, Left, Replanner
from halo_edge.errors import HaloError
from halo_edge.sync.ids import DeviceId

SESSION = "ours"
DEADLINE_S = 20.0


def info(name: str, speed: float = 0.0, session: str = SESSION) -> WorkerInfo:
    return WorkerInfo(
        control_version=CONTROL_VERSION,
        version="1",
        worker=name,
        host="here",
        addresses=["127.0.0.1"],
        port=1,
        cores=1,
        threads=1,
        memory_bytes=1,
        session=session,
        decode_neurons_per_s=speed,
    )


class Cluster:
    """Workers a and b in the plan, each device with 100 neurons."""

    def __init__(self) -> None:
        self.known = {"a": info("a", 100.0), "b": info("b", 100.0)}
        self.own_speed = 100.0
        self.plans: list[tuple[list[str], Mapping[int, float]]] = []
        self.told: list[str] = []
        self.fails = 0
        self._planned = threading.Condition()
        workers = {DeviceId(1): self.known["a"], DeviceId(2): self.known["b"]}
        self.replanner = Replanner(
            SESSION,
            workers,
            dict.fromkeys((0, 1, 2), 100),
            self._ask,
            self._replan,
            lambda: self.own_speed,
            self.told.append,
        )

    def until(self, happened: Callable[[], bool]) -> None:
        with self._planned:
            assert self._planned.wait_for(happened, DEADLINE_S)

    def _ask(self, name: str) -> WorkerInfo:
        if name not in self.known:
            raise HaloError("it does not answer")
        return self.known[name]

    def _replan(
        self, workers: Mapping[DeviceId, WorkerInfo], weights: Mapping[int, float]
    ) -> Mapping[int, int]:
        with self._planned:
            self.plans.append(([worker.worker for worker in workers.values()], weights))
            self._planned.notify_all()
            if self.fails:
                self.fails -= 1
                raise HaloError("it would not")
        return {device: round(weight) for device, weight in weights.items()}


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    monkeypatch.setattr("halo_edge.cluster.replanner.POLL_S", 0.01)
    monkeypatch.setattr("halo_edge.plan.balance.STEADY_S", 0.05)
    monkeypatch.setattr("halo_edge.plan.admission.GONE_AFTER_S", 0.05)
    monkeypatch.setattr("halo_edge.plan.admission.RETRY_AFTER_S", 0.05)
    found = Cluster()
    yield found
    found.replanner.close()


def test_a_worker_that_is_slower_gets_less(cluster: Cluster) -> None:
    cluster.known["b"] = info("b", 25.0)
    cluster.until(lambda: bool(cluster.plans))
    names, weights = cluster.plans[0]
    assert names == ["a", "b"]
    assert weights == {0: 100.0, 1: 100.0, 2: 25.0}


def test_who_left_is_planned_without_and_who_came_with(cluster: Cluster) -> None:
    del cluster.known["a"]
    cluster.replanner.put(Left("a"))
    cluster.until(lambda: len(cluster.plans) == 1)
    cluster.known |= {"c": info("c", session=""), "d": info("d", session="of another root")}
    cluster.replanner.put(Came("d"))
    cluster.replanner.put(Came("e"))  # gone again
    cluster.replanner.put(Came("c"))
    cluster.until(lambda: len(cluster.plans) == 2)
    assert [names for names, _ in cluster.plans] == [["b"], ["b", "c"]]


def test_a_plan_that_failed_is_tried_again(cluster: Cluster) -> None:
    cluster.fails = 1
    cluster.known["c"] = info("c", session="")
    cluster.replanner.put(Came("c"))
    cluster.until(lambda: len(cluster.plans) == 2)
    assert cluster.told[0] == "no new plan yet: it would not"


def test_nothing_happens_after_the_end(cluster: Cluster) -> None:
    cluster.replanner.close()
    cluster.known["c"] = info("c", session="")
    cluster.replanner.put(Came("c"))
    assert all(thread.name != "replanner" for thread in threading.enumerate())
    assert not cluster.plans

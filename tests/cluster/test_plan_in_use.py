"""How one plan follows another, where making an epoch ready is somebody else's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from halo_edge.cluster.plan_in_use import PlanInUse, with_part
from halo_edge.errors import HaloError
from halo_edge.plan.plan import split
from halo_edge.sync.ids import DeviceId

WORKERS: Any = {DeviceId(1): "a", DeviceId(2): "b", DeviceId(3): "c"}
FIRST: Any = {DeviceId(1): "a"}


class Epochs:
    """Epochs are named by how they were made."""

    relaxable = True

    def __init__(self) -> None:
        self.making: Callable[[], None] = lambda: None
        self.left_out: list[list[str]] = []

    def make(self, plan: Any, workers: Any) -> Any:
        self.making()
        return "relaxed", tuple(workers.values())

    def make_strict(self, plan: Any, workers: Any) -> Any:
        return "strict", tuple(workers.values())

    def leave_out(self, workers: Any) -> None:
        self.left_out.append(list(workers))


class Rounds:
    """Also stands for the links: remembers what it is given."""

    def __init__(self) -> None:
        self.epochs: list[Any] = []
        self.reached: list[Any] = []

    def adopt(self, epoch: Any) -> None:
        self.epochs.append(epoch)

    def reach(self, workers: Any) -> None:
        self.reached.append(dict(workers))


@pytest.fixture
def epochs() -> Any:
    return Epochs()


@pytest.fixture
def rounds() -> Any:
    return Rounds()


@pytest.fixture
def in_use(epochs: Any, rounds: Any) -> PlanInUse:
    return PlanInUse(split(8, [1, 1]), FIRST, frozenset(), epochs, rounds, rounds)


def test_only_those_with_neurons_have_a_part() -> None:
    assert with_part(split(8, [1, 1, 0, 1]), WORKERS) == {1: "a", 3: "c"}


def test_another_plan(in_use: PlanInUse, epochs: Any, rounds: Any) -> None:
    plan, loading = split(8, [1, 0, 1, 1]), []
    epochs.making = lambda: loading.append((in_use.loading, in_use.plan.n_devices))
    in_use.replace(plan, WORKERS)
    assert loading == [({2, 3}, 2)]  # the plan before goes on meanwhile
    assert in_use.loading == set()
    assert in_use.plan is plan
    assert in_use.workers == WORKERS
    assert rounds.reached == [{2: "b", 3: "c"}]
    assert epochs.left_out == [["a"]]
    assert rounds.epochs == [("relaxed", ("b", "c"))]


def test_in_a_hurry(in_use: PlanInUse, rounds: Any) -> None:
    assert in_use.replace_in_a_hurry(split(8, [1, 0, 1]), WORKERS)
    assert rounds.epochs == [("strict", ("b",))]


def test_one_that_fails_changes_nothing(in_use: PlanInUse, epochs: Any, rounds: Any) -> None:
    def refuse() -> None:
        raise HaloError("no")

    epochs.making, before = refuse, in_use.plan
    with pytest.raises(HaloError):
        in_use.replace(split(8, [1, 1, 1]), WORKERS)
    assert (in_use.plan, in_use.workers, in_use.loading) == (before, FIRST, frozenset())
    assert not rounds.epochs
    assert not epochs.left_out

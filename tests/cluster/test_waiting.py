"""The policies that are compared with the budget."""

from __future__ import annotations

import random

import pytest

from halo_edge.cluster.relaxation import RelaxOptions, Waiting
from halo_edge.cluster.waiting import PROTECTED_NATS, BudgetedChoice, choice_of
from halo_edge.sync.budget import Budget, SequenceKey
from halo_edge.sync.ids import DeviceId
from halo_edge.sync.relax import Candidate

ONE = SequenceKey(1)
BUDGET = Budget(0.005)


def candidate(device: int, nats: float) -> Candidate:
    return Candidate(DeviceId(device), 0.01, {ONE: nats})


def static(device: DeviceId) -> float:
    return 0.001 * device


def given_up(waiting: Waiting, rounds: int = 2000) -> list[Candidate]:
    """Of so many rounds that each lost one of four devices' partials."""
    choice, source = choice_of(RelaxOptions(waiting=waiting), BUDGET), random.Random(7)
    gone: list[Candidate] = []
    for _ in range(rounds):
        choice.begin_round()
        lost = candidate(source.randint(1, 4), source.uniform(0, 0.02))
        gone += choice.choose([lost], static)
    return gone


@pytest.mark.parametrize(
    "waiting", [Waiting.RANDOM_HALF, Waiting.STATIC_HALF, Waiting.PREDICTED_HALF]
)
def test_about_half_is_given_up(waiting: Waiting) -> None:
    assert 0.3 < len(given_up(waiting)) / 2000 < 0.7


def test_which_half() -> None:
    def mean(waiting: Waiting) -> float:
        gone = given_up(waiting)
        return sum(c.nats for c in gone) / len(gone)

    assert mean(Waiting.RANDOM_HALF) == pytest.approx(0.01, rel=0.1)
    assert mean(Waiting.PREDICTED_HALF) < 0.007
    assert max(c.device for c in given_up(Waiting.STATIC_HALF)[100:]) <= 3


def test_a_loss_is_judged_once() -> None:
    choice = choice_of(RelaxOptions(waiting=Waiting.RANDOM_HALF), BUDGET)
    for _ in range(200):
        choice.begin_round()
        first = choice.choose([candidate(1, 0.01)], static)
        if not first:
            assert not any(choice.choose([candidate(1, 0.01)], static) for _ in range(20))


def test_none_waits_only_for_what_is_protected() -> None:
    for options in (RelaxOptions(waiting=Waiting.NONE), RelaxOptions(recovery=False)):
        choice = choice_of(options, BUDGET)
        lost = [candidate(1, 0.1), candidate(2, PROTECTED_NATS * 1.1)]
        assert choice.choose(lost, static) == lost[:1]


def test_the_default_is_the_budget() -> None:
    assert isinstance(choice_of(RelaxOptions(kl_budget=0.005), BUDGET), BudgetedChoice)


@pytest.mark.parametrize(
    ("options", "relaxes"),
    [
        (RelaxOptions(), False),
        (RelaxOptions(kl_budget=0.005), True),
        (RelaxOptions(kl_budget=0.005, waiting=Waiting.ALL), False),
        (RelaxOptions(waiting=Waiting.NONE), True),
        (RelaxOptions(waiting=Waiting.ALL, recovery=False), True),
    ],
)
def test_what_relaxes(options: RelaxOptions, relaxes: bool) -> None:
    assert options.relaxes is relaxes

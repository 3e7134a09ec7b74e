"""Whose prompt gets on next."""

from __future__ import annotations

from halo_edge.engine.kv_cells import SequenceId
from halo_edge.engine.sampling import SamplingParams
from halo_edge.engine.sequence import Sequence
from halo_edge.engine.turns import MAX_USERS, Turns


def sequence(number: int, user: str, computed: int = 0) -> Sequence:
    made = Sequence(SequenceId(number), [1] * 10, SamplingParams(), 100, user)
    made.n_computed = computed
    return made


def order(turns: Turns, *running: Sequence) -> list[int]:
    return [sequence.id for sequence in turns.order(running)]


def test_one_of_each_user_and_then_the_second_of_each() -> None:
    running = [sequence(n, user) for n, user in enumerate("aaabbc")]
    assert order(Turns(), *running) == [0, 3, 5, 1, 4, 2]


def test_who_was_served_longest_ago_comes_first() -> None:
    turns = Turns()
    running = [sequence(n, user) for n, user in enumerate("abc")]
    for user in "abca":
        turns.served(user)
    assert order(turns, *running, sequence(3, "new")) == [3, 1, 2, 0]


def test_answers_wait_for_nobody() -> None:
    assert order(Turns(), sequence(0, "a", computed=9), sequence(1, "a", computed=8)) == [1]


def test_only_so_many_users_are_remembered() -> None:
    turns = Turns()
    for user in range(MAX_USERS + 1):
        turns.served(str(user))
    assert order(turns, sequence(0, "1"), sequence(1, "0")) == [1, 0]
    assert order(turns, sequence(0, "0"), sequence(1, "other")) == [0, 1]  # both are new

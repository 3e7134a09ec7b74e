"""Turns of users."""

from __future__ import annotations

from halo_edge.engine.kv_cells import SequenceId
from halo_edge.engine.sampling import SamplingParams
from halo_edge.engine.sequence import Sequence
from halo_edge.engine.waiting_line import WaitingLine


def sequence(id: int, user: str) -> Sequence:
    return Sequence(SequenceId(id), [1], SamplingParams(), 100, user)


def test_users_come_in_turn_and_each_users_requests_in_order() -> None:
    line = WaitingLine()
    for id, user in enumerate("aaaabbc"):
        line.put(sequence(id, user))
    running: list[Sequence] = []
    while (head := line.next(running)) is not None:
        assert line.next(running) is head  # until it is removed
        assert line.remove(head)
        running.append(head)
    assert [int(one.id) for one in running] == [0, 4, 6, 1, 5, 2, 3]
    assert len(line) == 0


def test_who_runs_little_comes_first() -> None:
    line = WaitingLine()
    for id, user in enumerate("ab"):
        line.put(sequence(id, user))
    head = line.next([sequence(9, "a")])
    assert head is not None
    assert head.user == "b"


def test_who_is_put_back_is_the_next_of_its_user() -> None:
    line, first, second = WaitingLine(), sequence(0, "a"), sequence(1, "a")
    line.put(second)
    line.put_back(first)
    assert line.next([]) is first
    assert line.remove(first)
    assert line.next([]) is second
    assert not line.remove(first)
    assert not line.remove(sequence(5, "nobody"))

"""Who is taken for gone, while there are rounds and while there are none."""

from __future__ import annotations

import pytest

from halo_edge.cluster.absent import ASK_AGAIN_S, Absent
from halo_edge.errors import HaloError
from halo_edge.sync.ids import DeviceId

A, B, C = DeviceId(1), DeviceId(2), DeviceId(3)


class Session:
    """Rounds that A and B do not answer. B is this session's no more, and C does not answer."""

    def __init__(self) -> None:
        self.away = frozenset({A, B})
        self.members = {A: "a", B: "b", C: "c"}
        self.begun = 7
        self.asked: list[str] = []
        self.absent = Absent(self, self._is_there)

    def _is_there(self, name: str) -> bool:
        self.asked.append(name)
        if name == "c":
            raise HaloError("no answer")
        return name == "a"


@pytest.fixture
def session() -> Session:
    return Session()


def test_nobody_is_asked_while_there_are_rounds(session: Session) -> None:
    for now in range(5):
        session.begun += 1
        assert session.absent.look(now) == {A, B} == session.absent.devices
    assert session.asked == []


def test_who_answers_is_there_until_the_next_round(session: Session) -> None:
    session.absent.look(0.0)
    assert session.absent.look(1.0) == {B} == session.absent.devices
    assert session.asked == ["a"]
    session.begun += 1
    assert session.absent.devices == {A, B}
    assert session.absent.look(2.0) == {A, B}
    assert session.absent.look(3.0) == {B}
    assert session.asked == ["a", "a"]


def test_who_does_not_answer_is_asked_now_and_then(session: Session) -> None:
    session.away = frozenset({B, C})
    session.absent.look(0.0)
    for now in range(1, 4):  # one a look: each may take seconds
        assert session.absent.look(now) == {B, C}
        assert session.asked == ["b", "c"][:now]
    assert session.absent.look(1 + ASK_AGAIN_S) == {B, C}
    assert session.asked == ["b", "c", "b"]


def test_several_answer_one_after_another(session: Session) -> None:
    session.away = frozenset({A, C})
    session.members = {A: "a", C: "a"}
    session.absent.look(0.0)
    assert session.absent.look(1.0) == {C}
    assert session.absent.look(2.0) == frozenset()


def test_who_is_no_part_of_the_plan_is_not_asked(session: Session) -> None:
    session.members = {}
    session.absent.look(0.0)
    assert session.absent.look(1.0) == {A, B}
    assert session.asked == []

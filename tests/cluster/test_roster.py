"""Who is asked how they are, and what is known of those who are not."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from halo_edge.cluster.roster import Roster
from halo_edge.errors import HaloError


class Membership:
    """Workers say how often they were asked; c does not answer, and d has left."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def ask(self, name: str) -> Any:
        self.asked.append(name)
        if name == "c":
            raise HaloError("no answer")
        return SimpleNamespace(worker=name, said=len(self.asked))

    def has_left(self, name: str) -> bool:
        return name == "d"


def worker(name: str) -> Any:
    return SimpleNamespace(worker=name, said=0)


def test_who_is_in_use_and_there_is_asked() -> None:
    membership: Any = Membership()
    rounds: Any = SimpleNamespace(ready={1: "a", 2: "b", 3: "c", 4: "d"})
    absent: Any = SimpleNamespace(devices=frozenset({2}))
    workers = {device: worker(name) for device, name in rounds.ready.items()}
    in_use: Any = SimpleNamespace(workers=workers, loading=frozenset({5}))
    roster, joined = Roster(membership, in_use, rounds, absent), {5: worker("e")}
    before = roster.members({})
    assert set(before.known) == {1, 2, 3, 4}
    roster.hear()
    assert membership.asked == ["a", "c"]
    members = roster.members(joined)  # type: ignore[arg-type]
    said = {device: known.said for device, known in members.known.items()}  # type: ignore[attr-defined]
    assert said == {1: 1, 2: 0, 3: 0, 4: 0, 5: 0}
    assert members.left == {"d"}
    assert (members.loading, members.away) == ({5}, {2})

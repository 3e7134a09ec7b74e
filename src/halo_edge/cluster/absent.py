"""Who of a session's workers is taken for gone.

Rounds tell. Between requests there are none, and a worker that was held up in the last one (by
another process, a stop of a second) would be taken for gone until the next: the server would call
itself degraded, and the plan would be made anew without it. While there are no rounds, workers
that did not answer in the last ones are asked over the control plane.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, Protocol

from halo_edge.errors import HaloError
from halo_edge.sync.ids import DeviceId

ASK_AGAIN_S: Final = 5.0
"""A worker that does not answer may take `ASK_TIMEOUT_S` of the one who asks."""


class _Rounds(Protocol):
    """What is asked of `RoundsFfn`."""

    @property
    def away(self) -> frozenset[DeviceId]: ...

    @property
    def members(self) -> Mapping[DeviceId, str]: ...

    @property
    def begun(self) -> int: ...


class Absent:
    """Of one session."""

    def __init__(self, rounds: _Rounds, is_there: Callable[[str], bool]) -> None:
        """`is_there`: whether the worker of that name is still this session's. It may take seconds,
        and raise `HaloError` where nobody answers."""
        self._rounds = rounds
        self._is_there = is_there
        self._begun = 0  # rounds, when it was last looked
        self._asked_at: dict[DeviceId, float] = {}
        # Who has answered, and the rounds begun until then: what later ones tell is newer.
        self._answered: tuple[int, frozenset[DeviceId]] = (0, frozenset())

    @property
    def devices(self) -> frozenset[DeviceId]:
        """They answer neither rounds nor questions. Any thread may ask."""
        begun, answered = self._answered
        away = self._rounds.away
        return away - answered if begun == self._rounds.begun else away

    def look(self, now: float) -> frozenset[DeviceId]:
        """The same, after asking one of them if there has been no round since the last look. One
        thread calls it, every second or so; `now`: seconds of any clock that only goes forward."""
        begun = self._rounds.begun
        idle, self._begun = begun == self._begun, begun
        if not idle:
            self._asked_at.clear()
            return self.devices
        members, absent = self._rounds.members, self.devices
        for device in sorted(absent & members.keys()):
            if now - self._asked_at.get(device, -ASK_AGAIN_S) >= ASK_AGAIN_S:
                self._asked_at[device] = now
                if self._answers(members[device]):
                    before, answered = self._answered
                    known = answered if before == begun else frozenset()
                    self._answered = begun, known | {device}
                break
        return self.devices

    def _answers(self, name: str) -> bool:
        try:
            return self._is_there(name)
        except HaloError:
            return False

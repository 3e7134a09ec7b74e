"""Which devices the next plan may count on, and when there is to be one.

A device that comes is wanted at once, and one that left is given time to come back: others compute
for it meanwhile, and a new plan moves weights. One that comes and goes must not make plans flap: it
is let in again only some time after the last time. Times come in as arguments, in seconds of any
clock that only goes forward.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

GONE_AFTER_S: Final = 10.0
"""Away for so long, a device is planned without."""
AGAIN_AFTER_S: Final = 60.0
"""So long after a device was let in it may be let in again."""
RETRY_AFTER_S: Final = 5.0
"""After a plan that could not be carried out; doubled with each further one in a row."""
MAX_RETRY_S: Final = 80.0


@dataclass
class _Device:
    """`in_plan`: of the last plan. `has_part`: it is ready for its part in that. `changed`: it came
    or left since a plan was last due. `left_at`: infinite while it is here."""

    in_plan: bool = False
    has_part: bool = False
    changed: bool = False
    left_at: float = math.inf
    let_in_at: float = -math.inf


class Admission:
    """Of one session's workers, by their numbers."""

    def __init__(self, members: Iterable[int]) -> None:
        """`members`: of the first plan."""
        self._devices = {number: _Device(in_plan=True, has_part=True) for number in members}
        self._retry_at = -math.inf
        self._failures = 0

    def came(self, device: int, *, has_part: bool) -> None:
        """It is here. `has_part`: it never left, it seems; else it is new, or was started again."""
        known = self._devices.setdefault(device, _Device())
        known.left_at, known.changed = math.inf, True
        known.has_part = has_part and known.in_plan

    def left(self, device: int, now: float) -> None:
        known = self._devices.get(device)
        if known is not None and known.left_at == math.inf:
            known.left_at, known.changed = now, True

    def due(self, now: float) -> frozenset[int] | None:
        """The workers that a new plan is to have, if it is time for one."""
        if self.due_at() > now:
            return None
        for each in self._devices.values():
            each.changed = False
        return frozenset(number for number, each in self._devices.items() if _wanted(each, now))

    def due_at(self) -> float:
        """When there is to be a new plan, unless something changes; infinite: not at all."""
        changes = [_changes_at(device) for device in self._devices.values()]
        return max(min(changes, default=math.inf), self._retry_at)

    def planned(self, members: frozenset[int], now: float) -> None:
        """A plan with these workers is in use, or about to be."""
        self._failures, self._retry_at = 0, -math.inf
        for number, device in self._devices.items():
            if number in members and not device.has_part:
                device.let_in_at = now
            device.in_plan = number in members
            device.has_part = device.in_plan and not device.changed

    def failed(self, now: float) -> None:
        """A plan that was due could not be carried out."""
        self._retry_at = now + min(RETRY_AFTER_S * 2**self._failures, MAX_RETRY_S)
        self._failures = min(self._failures + 1, 16)


def _wanted(device: _Device, now: float) -> bool:
    here = device.left_at == math.inf
    return here and (device.has_part or now >= device.let_in_at + AGAIN_AFTER_S)


def _changes_at(device: _Device) -> float:
    """When it is to be let in, or left out."""
    if device.left_at < math.inf:
        return device.left_at + GONE_AFTER_S if device.in_plan else math.inf
    return math.inf if device.has_part else device.let_in_at + AGAIN_AFTER_S

"""Which devices the next plan may count on, and when there is to be one.

A device that comes is wanted at once. One that left is given time to come back if a plan without it
moves weights: others compute for it meanwhile. Where others hold its weights it can be replaced at
once. One that comes and goes must not make plans flap: it is let in, or replaced, only some time
after the last time. Times come in as arguments, in seconds of any clock that only goes forward.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

GONE_AFTER_S: Final = 10.0
"""Away for so long, a device is planned without."""
AGAIN_AFTER_S: Final = 60.0
"""So long after a device was let in, or replaced, either may happen again."""
RETRY_AFTER_S: Final = 5.0
"""After a plan that could not be carried out; doubled with each further one in a row."""
MAX_RETRY_S: Final = 80.0


@dataclass
class _Device:
    """`in_plan`: of the last plan. `has_part`: it is ready for its part in that. `changed`: it came
    or left since a plan was last due. `left_at`: infinite while it is here. `changed_at`: when it
    was let in, or replaced. `needed`: nobody computes for it."""

    in_plan: bool = False
    has_part: bool = False
    changed: bool = False
    left_at: float = math.inf
    changed_at: float = -math.inf
    needed: bool = False


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
        known.left_at, known.changed, known.needed = math.inf, True, False
        known.has_part = has_part and known.in_plan

    def left(self, device: int, now: float) -> None:
        known = self._devices.get(device)
        if known is not None and known.left_at == math.inf:
            known.left_at, known.changed = now, True

    def needed(self, device: int, now: float) -> None:
        """It is not here, and nobody computes for it: rounds wait for a plan without it."""
        self.left(device, now)
        if device in self._devices:
            self._devices[device].needed = True

    def replaceable(self, now: float) -> frozenset[int]:
        """Those of the plan that left, and may be replaced by who holds their weights."""
        if now < self._retry_at:
            return frozenset()
        return frozenset(
            number
            for number, each in self._devices.items()
            if each.in_plan
            and each.left_at < math.inf
            and (each.needed or now >= each.changed_at + AGAIN_AFTER_S)
        )

    def replaced(self, devices: Iterable[int], now: float) -> None:
        """A plan without these is in use, or about to be, and else as the one before."""
        self._failures, self._retry_at = 0, -math.inf
        for number in devices:
            self._devices[number] = _Device(left_at=self._devices[number].left_at, changed_at=now)

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
                device.changed_at = now
            device.in_plan = number in members
            device.has_part = device.in_plan and not device.changed

    def failed(self, now: float) -> None:
        """A plan that was due could not be carried out."""
        self._retry_at = now + min(RETRY_AFTER_S * 2**self._failures, MAX_RETRY_S)
        self._failures = min(self._failures + 1, 16)


def _wanted(device: _Device, now: float) -> bool:
    here = device.left_at == math.inf
    return here and (device.has_part or now >= device.changed_at + AGAIN_AFTER_S)


def _changes_at(device: _Device) -> float:
    """When it is to be let in, or left out."""
    if device.left_at < math.inf:
        wait_s = 0.0 if device.needed else GONE_AFTER_S
        return device.left_at + wait_s if device.in_plan else math.inf
    return math.inf if device.has_part else device.changed_at + AGAIN_AFTER_S

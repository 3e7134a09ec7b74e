"""Shares in proportion to speed, and when other shares are worth moving weights for.

A layer's FFN takes as long as the device that is last: max_d n_d / v_d, for n_d neurons at v_d
neurons a second. With all neurons shared out, that is least where all are done at once, n_d in
proportion to v_d: sum n / sum v. What is measured moves about, and a move costs everybody's memory
and network; so shares change only for a gain that is large, that lasts, and not often.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Final

WORTH: Final = 0.3
"""The share of the FFN's time that other shares have to save. Of four devices, one at 0.64 of the
others' speed is worth it."""
STEADY_S: Final = 2.0
"""They have to for so long."""
AGAIN_AFTER_S: Final = 60.0
"""So long after a change there may be another."""


def gain(neurons: Mapping[int, int], speeds: Mapping[int, float]) -> float:
    """The share of the FFN's time, 0 ... 1, that shares in proportion to `speeds` would save over
    those of `neurons`, by device. 0 where a speed is not known."""
    if not all(speeds.get(device, 0.0) > 0 for device in neurons):
        return 0.0
    now_s = max((n / speeds[device] for device, n in neurons.items()), default=0.0)
    best_s = sum(neurons.values()) / sum(speeds[device] for device in neurons) if neurons else 0.0
    return 1 - best_s / now_s if now_s > 0 else 0.0


class Balance:
    """Of one session's devices, the root's number being 0. Times are seconds of any clock that only
    goes forward."""

    def __init__(self) -> None:
        self.speeds: dict[int, float] = {}
        """Neurons a second in decode, of those that are known."""
        self._unequal_since = math.inf
        self._planned_at = -math.inf

    def measured(self, device: int, neurons_per_s: float) -> None:
        """What is not above 0 is not known."""
        if 0 < neurons_per_s < math.inf:
            self.speeds[device] = neurons_per_s

    def due(self, neurons: Mapping[int, int], now: float) -> bool:
        """Whether these shares ought to be others. To be asked every second or so."""
        if gain(neurons, self.speeds) < WORTH:
            self._unequal_since = math.inf
            return False
        self._unequal_since = min(self._unequal_since, now)
        return now - self._unequal_since >= STEADY_S and now - self._planned_at >= AGAIN_AFTER_S

    def planned(self, now: float) -> None:
        """There are other shares, whatever for, or there could not be."""
        self._unequal_since, self._planned_at = math.inf, now

    def weights(self, devices: Collection[int]) -> dict[int, float]:
        """Relative shares of the devices. One of unknown speed is taken for an average one."""
        known = [self.speeds[device] for device in devices if device in self.speeds]
        average = sum(known) / len(known) if known else 1.0
        return {device: self.speeds.get(device, average) for device in devices}

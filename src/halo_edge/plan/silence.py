"""Which devices have left without a word: a host that loses its power closes no connection.

They answer no rounds, for much longer than any burst of loss lasts. Whoever was taken for gone in
this way is asked now and then whether it is back. Times come in as arguments, in seconds of any
clock that only goes forward.
"""

from __future__ import annotations

from collections.abc import Set
from typing import Final

SILENT_S: Final = 15.0
"""Away from rounds for so long, a device is taken to have left."""
ASK_AGAIN_S: Final = 30.0


class Silence:
    """Of one session's workers, by their numbers."""

    def __init__(self) -> None:
        self._since: dict[int, float] = {}
        self._asked_at: dict[int, float] = {}  # of those that were taken for gone

    def gone(self, away: Set[int], now: float) -> list[int]:
        """Those that are newly taken to have left. `away`: who answers no rounds at present. To be
        asked every few seconds."""
        self._since = {device: self._since.get(device, now) for device in away}
        found = [
            device
            for device, since in self._since.items()
            if now - since >= SILENT_S and device not in self._asked_at
        ]
        self._asked_at.update(dict.fromkeys(found, now))
        return found

    def to_ask(self, now: float) -> list[int]:
        """Those who may be back, and have not been asked for some time."""
        found = [d for d, asked_at in self._asked_at.items() if now - asked_at >= ASK_AGAIN_S]
        self._asked_at.update(dict.fromkeys(found, now))
        return found

    def back(self, device: int) -> None:
        """It has been heard of."""
        self._asked_at.pop(device, None)
        self._since.pop(device, None)

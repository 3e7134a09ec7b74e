"""Finds out which workers are away, looking at all of them whenever the owner of the rounds does.

What silence means for one worker is in presence.py; here is whose silence counts from when.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Final

from halo_edge.sync.peer import Peer
from halo_edge.sync.presence import Event

K_DEAF_S: Final = 0.02
"""While the owner computes, or has no rounds, silence counts for no longer than this."""


class Watch:
    """`active` false: nobody could take over, and nobody is ever away."""

    def __init__(self, peers: Collection[Peer], *, active: bool) -> None:
        self.active = active
        self._peers = peers
        self._listened_until = 0.0
        self._looked_at = -math.inf

    def begin_round(self, now: float) -> None:
        """The owner begins a round."""
        self._listen(now)
        self._looked_at = -math.inf

    def will_listen_at(self, at_s: float) -> None:
        """The owner waits until then, or comes earlier."""
        self._listened_until = at_s

    def look(self, round_id: tuple[int, int, int], now: float) -> None:
        """Finds who is away by now, once for each time."""
        if now == self._looked_at:
            return
        self._looked_at = now
        self._listen(now)
        if not self.active:
            return
        for peer in self._peers:
            partial, presence = peer.partial, peer.presence
            if partial.missing and not presence.away:
                if now >= presence.silent_since + presence.limit_s:
                    peer.missed(Event.SILENT, round_id, now)
                elif now >= partial.deadline and not partial.begun:
                    peer.missed(Event.OVERDUE, round_id, now)

    def _listen(self, now: float) -> None:
        """As long as the owner did not look at the rounds, nobody can be blamed for silence: what
        was lost in between was not asked for."""
        deaf_s = now - self._listened_until - K_DEAF_S
        if deaf_s > 0 and self.active:
            for peer in self._peers:
                presence = peer.presence
                presence.silent_since = min(now, presence.silent_since + deaf_s)
        self._listened_until = now

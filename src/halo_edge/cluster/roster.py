"""The workers of a session as they said they are when they were last asked.

It asks, which may take seconds; what is made of the answers is `overview.py`'s.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping

from halo_edge.cluster.absent import Absent
from halo_edge.cluster.membership import Membership
from halo_edge.cluster.messages import WorkerInfo
from halo_edge.cluster.overview import Members
from halo_edge.cluster.plan_in_use import PlanInUse
from halo_edge.cluster.planner import Workers
from halo_edge.cluster.rounds_ffn import RoundsFfn
from halo_edge.errors import HaloError
from halo_edge.sync.ids import DeviceId


class Roster:
    """Of one session, from when its rounds begin."""

    def __init__(
        self, membership: Membership, in_use: PlanInUse, rounds: RoundsFfn, absent: Absent
    ) -> None:
        self._membership = membership
        self._in_use = in_use
        self._rounds = rounds
        self._absent = absent
        self._heard: Mapping[DeviceId, WorkerInfo] = {}

    def hear(self) -> None:
        """Ask the workers in use how they are. It may take seconds."""
        membership, absent, heard = self._membership, self._absent.devices, {}
        for device, name in self._rounds.ready.items():
            if device not in absent and not membership.has_left(name):
                with contextlib.suppress(HaloError):  # they may be on their way out
                    heard[device] = membership.ask(name)
        self._heard = heard

    def members(self, joined: Workers) -> Members:
        """All that are known. `joined`: since the session began. Any thread may ask."""
        rounds, left = self._rounds, self._membership.has_left
        known = {**self._in_use.workers, **joined, **self._heard}
        return Members(
            known,
            rounds.ready,
            self._in_use.loading,
            self._absent.devices,
            {worker.worker for worker in known.values() if left(worker.worker)},
        )

"""How much memory a worker may use, and for what: its part in an epoch, the next one's beside it,
and replicas in what is left.
"""

from __future__ import annotations

from typing import Final

from halo_edge.cluster.limits import Limits, available_bytes, read_limits
from halo_edge.cluster.messages import Assignment
from halo_edge.cluster.worker_session import Session
from halo_edge.cluster.worker_shards import memory_needed, names
from halo_edge.plan.device import PROCESS_BYTES

# The rest is for the system, where nobody says how much memory is for the worker.
MEMORY_SHARE: Final = 0.9
# So much of a machine's memory replicas leave free, whatever the worker may use.
FREE_SHARE: Final = 0.2


class WorkerMemory:
    """`asked_bytes`: that the worker may use; None: most of what there is. Any thread may ask."""

    def __init__(self, asked_bytes: int | None) -> None:
        self._asked_bytes = asked_bytes

    def limit_bytes(self, limits: Limits | None = None) -> int | None:
        """For everything; None where nobody says."""
        if self._asked_bytes is not None:
            return self._asked_bytes
        limit = (limits or read_limits()).memory_bytes
        return None if limit is None else int(MEMORY_SHARE * limit)

    def make_room(self, session: Session, assignment: Assignment) -> bool:
        """For another part: without replicas, if need be. Whether it fits beside the one in use:
        else that is closed, and who can computes for this device meanwhile."""
        held, in_use, wanted = session.held, session.in_use, names(assignment.shards)
        held.keep(in_use | wanted | names(assignment.replicas))
        limit = self.limit_bytes()
        if limit is None:
            return True
        room = limit - PROCESS_BYTES
        try:
            needed = memory_needed(assignment, wanted - held.missing(wanted))
        except ValueError:  # loading says what is wrong with it
            return True
        if session.memory_bytes + needed > room:
            held.keep(in_use | wanted)
        if session.memory_bytes + needed <= room:
            return True
        session.pause()
        held.keep(wanted)
        return False

    def has_room(self, session: Session, nbytes: int) -> bool:
        """For a replica: only where it is known, and never so that anything is swapped out."""
        limit, free = self.limit_bytes(), available_bytes()
        if limit is None or free is None:
            return False
        left, physical = free[0] - nbytes, free[1]
        own = session.memory_bytes + nbytes
        return left >= FREE_SHARE * physical and own <= limit - PROCESS_BYTES

"""Loads a worker's replicas beside its rounds: onto the disk, and into the memory that is spare.

In a thread of the lowest priority, at most a fifth of the time, and only until there is something
better to do: another assignment ends it.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable
from typing import Final

from halo_edge.cluster.duty_cycle import DutyCycle
from halo_edge.cluster.held_tiles import HeldTiles
from halo_edge.cluster.messages import Assignment, Tile
from halo_edge.cluster.tile_source import TileSource
from halo_edge.cluster.worker_shards import spec_of_tile
from halo_edge.errors import HaloError

LOWEST_PRIORITY: Final = 19
# Where no rounds come, it is not waited for them for longer, nor looked for more often.
BEGIN_S: Final = 10.0
LOOK_S: Final = 0.25
# How often it is tried whether there is memory by now: the epoch before may still have it.
RETRY_S: Final = 2.0
# After one that took long, as one does that waits behind others, loading goes on after this.
MAX_REST_S: Final = 2.0


class ReplicaLoader:
    """Of one assignment. `begun` says whether its epoch has: then others have theirs, and replicas
    can come from them. `room` says whether so many bytes more may be used; `tell` is given a line
    for the user. All are called from the loader's thread."""

    def __init__(
        self,
        assignment: Assignment,
        held: HeldTiles,
        source: TileSource,
        begun: Callable[[], bool],
        room: Callable[[int], bool],
        tell: Callable[[str], None],
    ) -> None:
        self._width = assignment.width
        self._tiles = [tile for tiles in assignment.replicas for tile in tiles]
        self._held = held
        self._source = source
        self._begun = begun
        self._room = room
        self._tell = tell
        self._stopped = threading.Event()
        self._duty = DutyCycle(self._stopped, max_rest_s=MAX_REST_S)
        self._thread = threading.Thread(target=self._run, name="replicas", daemon=True)
        if self._tiles:
            self._thread.start()

    def stop(self) -> None:
        """Soon; what is under way is still held if the session wants it."""
        self._stopped.set()

    def _run(self) -> None:
        lower_priority()
        begin_at = time.monotonic() + BEGIN_S
        while not self._begun() and time.monotonic() < begin_at:
            if self._stopped.wait(LOOK_S):
                return
        try:
            left = [tile for tile in self._tiles if not self._load(tile)]
            names = {tile.sha256 for tile in self._tiles}
            peers = self._source.peer_bytes
            self._tell(
                f"holds replicas of {len(self._tiles)} tiles: {self._held.nbytes(names) / 1e6:.1f} "
                f"MB in memory, {len(left)} tiles on disk only"
                f"{f'; {peers / 1e6:.1f} MB came from peers' if peers else ''}"
            )
            while left and not self._stopped.wait(RETRY_S):
                left = [tile for tile in left if not self._load(tile)]
        except _StoppedError:
            pass
        except (HaloError, ValueError) as error:  # it can do without
            if not self._stopped.is_set():
                self._tell(f"no replicas: {error}")

    def _load(self, tile: Tile) -> bool:
        """Whether it is in memory."""
        if self._held.get(tile.sha256) is not None:
            return True
        layout = spec_of_tile(self._width, tile)
        self._duty.begin()
        packed = self._source.load_gently(tile.sha256, layout.nbytes, self._rest)
        self._rest()
        if not self._room(layout.nbytes):
            return False
        self._held.add(tile.sha256, layout.weights(packed), layout.nbytes)
        self._rest()
        return True

    def _rest(self) -> None:
        """So that links, disk and processors are free for most of the time."""
        if self._duty.rest():
            raise _StoppedError


class _StoppedError(Exception):
    """There is something better to do."""


def lower_priority() -> None:
    """The calling thread's, where the system has such a thing (Linux)."""
    with contextlib.suppress(AttributeError, OSError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), LOWEST_PRIORITY)

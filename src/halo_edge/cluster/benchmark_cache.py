"""A device's benchmark, kept on disk: the second session with a model begins without it.

What it says is where planning begins; real rounds take its place soon. So nothing is made of a file
that is old, damaged or somebody else's but a new measurement. How fast the storage is, no round
tells; it takes less time, and each process finds it out for itself.
"""

from __future__ import annotations

import contextlib
import functools
import os
import socket
import threading
import time
from pathlib import Path
from typing import Final

import msgspec

from halo_edge import __version__
from halo_edge.cluster.messages import decode, encode
from halo_edge.cluster.profile_message import BenchmarkReply, BenchmarkTask, profile_of, reply_of
from halo_edge.cluster.storage import read_bandwidth
from halo_edge.errors import HaloError
from halo_edge.groups.shard import ContentHash
from halo_edge.plan.device_profile import DeviceProfile

BELIEVED_S: Final = 7 * 86400.0
MAX_BYTES: Final = 1 << 16
MIN_MEMORY_BYTES: Final = 4 << 20
EDITION: Final = 2
"""Of what is measured, and how; one that was kept of another is not used."""
BUSY: Final = 1.5
"""Processes that want to run, for each core, on average over the last minute: where there are more,
what is measured is used, and not kept. CPU time, too, depends on what else is in the caches."""


class Benchmarks:
    """This device's, with so many compute threads; kept in `directory`, where shards are. Any
    thread may ask; one measures at a time."""

    def __init__(self, directory: Path, threads: int) -> None:
        self._directory = directory
        self._threads = threads
        self._measuring = threading.Lock()

    @functools.cached_property
    def storage_bytes_per_s(self) -> float | None:
        """That shards are read with; None where it cannot be told. Takes up to a second, once."""
        return read_bandwidth(self._directory)

    def of(self, task: BenchmarkTask, memory_bytes: int | None) -> DeviceProfile:
        """For that model. Measures if it has to, which takes a second or two, and a part of
        `memory_bytes` (None: enough). Raises `HaloError` if it cannot be measured."""
        with self._measuring:
            path = self._path(task)
            profile = _read(path)
            if profile is None:
                # What it takes is not for the memory of a worker that was measured before.
                from halo_edge.cluster.device_benchmark import MEMORY_BYTES, measure_device

                room = MEMORY_BYTES
                if memory_bytes is not None:
                    room = max(MIN_MEMORY_BYTES, min(room, memory_bytes // 8))
                profile = measure_device(task, self._threads, memory_bytes=room)
                if not _busy():
                    self._keep(path, profile)
            return profile

    def _path(self, task: BenchmarkTask) -> Path:
        what = (__version__, EDITION, os.uname().machine, socket.gethostname(), self._threads)
        key = ContentHash()
        key.update(repr(what).encode() + msgspec.json.encode(task))
        return self._directory / f"benchmark-{key.hexdigest()[:32]}.json"

    def _keep(self, path: Path, profile: DeviceProfile) -> None:
        """If the disk takes it."""
        unfinished = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            unfinished.write_bytes(encode(reply_of(profile, None)))
            unfinished.rename(path)
        except OSError:
            with contextlib.suppress(OSError):
                unfinished.unlink(missing_ok=True)


def _busy() -> bool:
    try:
        return os.getloadavg()[0] > BUSY * (os.cpu_count() or 1)
    except OSError:  # nobody says
        return False


def _read(path: Path) -> DeviceProfile | None:
    try:
        if not 0 <= time.time() - path.stat().st_mtime < BELIEVED_S:
            return None
        with path.open("rb") as file:
            return profile_of(decode(file.read(MAX_BYTES), BenchmarkReply, path.name), "measured")
    except (OSError, HaloError):
        return None

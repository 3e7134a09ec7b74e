"""A cluster on this machine: workers as child processes on loopback, gone when the root is.

Two things end a child, whichever comes first, so that none outlives a root that was killed: the
kernel's signal on its parent's death (also for a stopped child), and the end of its standard
input.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Final

import zenoh

from halo_edge.cluster.control import ControlOptions, open_control
from halo_edge.cluster.worker_process import WorkerStart
from halo_edge.errors import HaloError
from halo_edge.model.cache import user_shards

CLUSTER: Final = "local"
STOP_TIMEOUT_S: Final = 3.0
# An interpreter on a Raspberry Pi 3 with a cold disk takes a while to import everything.
START_TIMEOUT_S: Final = 60.0


class LocalWorkers:
    """Starts `n` workers, each with `threads` threads, reached through a socket in a private
    directory.
    """

    cluster: Final = CLUSTER
    start_timeout_s: Final = START_TIMEOUT_S

    def __init__(self, n: int, threads: int) -> None:
        self._directory = Path(tempfile.mkdtemp(prefix="halo-"))
        self._logs = [self._directory / f"worker-{i}.log" for i in range(1, n + 1)]
        self._children: list[subprocess.Popen[bytes]] = []
        endpoint = f"unixsock-stream/{self._directory}/control"
        options = ControlOptions(CLUSTER, listen=(endpoint,), multicast=False)
        try:
            self.session: zenoh.Session = open_control(options)
        except BaseException:
            shutil.rmtree(self._directory, ignore_errors=True)
            raise
        try:
            for log in self._logs:
                self._children.append(_start(endpoint, log.stem, threads, log))
        except BaseException:
            self.close()
            raise

    @property
    def pids(self) -> tuple[int, ...]:
        return tuple(child.pid for child in self._children)

    def check(self) -> None:
        """Raises `HaloError` if a worker has ended, with its last words."""
        for child, log in zip(self._children, self._logs, strict=False):
            if child.poll() is not None:
                words = log.read_text(errors="replace").strip().splitlines()
                last = words[-1][:300] if words else f"exit status {child.returncode}"
                raise HaloError(f"{log.stem} on this machine ended at once: {last}")

    def close(self) -> None:
        """Stop the workers and remove everything."""
        for child in self._children:
            if child.stdin is not None:
                with contextlib.suppress(OSError):
                    child.stdin.close()
        for child in self._children:
            try:
                child.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
        self.session.close()  # type: ignore[no-untyped-call]
        shutil.rmtree(self._directory, ignore_errors=True)

    def __enter__(self) -> LocalWorkers:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _start(endpoint: str, name: str, threads: int, log: Path) -> subprocess.Popen[bytes]:
    start = WorkerStart(
        cluster=CLUSTER,
        connect=[endpoint],
        multicast=False,
        name=name,
        address="127.0.0.1",
        threads=threads,
        cache=str(user_shards()),
        parent=os.getpid(),
    )
    with log.open("wb") as output:
        return subprocess.Popen(
            start.command(),
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=output,
            env=start.environment(),
        )

"""A worker's process: what `halo worker` becomes, and what a local cluster starts.

It is a program of its own, given a `WorkerStart` as JSON, so that a worker carries none of the
memory of the command line, the tokenizer or the downloads.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
from pathlib import Path
from typing import Final, NoReturn

import msgspec

from halo_edge.cluster.control import ControlOptions
from halo_edge.cluster.shard_cache import DEFAULT_LIMIT_BYTES, ShardCache
from halo_edge.cluster.worker import Worker, WorkerOptions
from halo_edge.errors import HaloError

PR_SET_PDEATHSIG: Final = 1
ENDING_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)


class WorkerStart(msgspec.Struct, frozen=True, kw_only=True):
    """`parent`: the process with which the worker ends, and whose pipe is its standard input."""

    cluster: str
    listen: list[str] = []
    connect: list[str] = []
    multicast: bool = True
    config_file: str | None = None
    name: str = ""
    address: str = "0.0.0.0"
    port: int = 0
    threads: int = 1
    memory_bytes: int | None = None
    cache: str
    cache_limit_bytes: int = DEFAULT_LIMIT_BYTES
    parent: int | None = None

    def command(self) -> list[str]:
        """The command line that starts it."""
        arguments = msgspec.json.encode(self).decode()
        return [sys.executable, "-m", "halo_edge.cluster.worker_process", arguments]

    @staticmethod
    def environment() -> dict[str, str]:
        """Its environment: this one's, with what keeps a worker small."""
        # numpy's BLAS is not used, but would start a thread and a buffer per core; and Zenoh's
        # threads need no malloc arenas of their own.
        return os.environ | {"OPENBLAS_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1"}


def end_with_parent(parent: int) -> None:
    """Let the kernel kill this process with its parent (Linux), and end with standard input."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before we could ask
        os._exit(1)

    def watch() -> None:
        while os.read(0, 4096):
            pass
        os._exit(0)

    threading.Thread(target=watch, daemon=True).start()


def _terminate(*_: object) -> NoReturn:
    raise SystemExit(0)


def main() -> None:
    start = msgspec.json.decode(sys.argv[1], type=WorkerStart)
    signal.signal(signal.SIGTERM, _terminate)
    # All other threads inherit this: a signal that one of them took would not wake this one.
    signal.pthread_sigmask(signal.SIG_BLOCK, ENDING_SIGNALS)
    if start.parent is not None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the root's; it ends us
        end_with_parent(start.parent)
    control = ControlOptions(
        start.cluster,
        start.listen,
        start.connect,
        start.multicast,
        Path(start.config_file) if start.config_file else None,
    )
    options = WorkerOptions(
        control, start.name, start.address, start.port, start.threads, start.memory_bytes
    )
    cache = ShardCache(Path(start.cache), start.cache_limit_bytes)
    try:
        worker = Worker(options, cache, _tell)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING_SIGNALS)
        _tell(
            f"worker {worker.id} of cluster {start.cluster!r}: rounds on port {worker.port} "
            f"(UDP and TCP), {start.threads} compute thread(s); waiting for a root"
        )
        worker.run()
    except HaloError as error:
        sys.exit(f"halo: {error}")
    except KeyboardInterrupt:
        sys.exit(130)


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()

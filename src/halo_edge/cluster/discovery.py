"""How a root finds its workers and decides whether it can use them."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import zenoh

from halo_edge import __version__
from halo_edge.cluster import control
from halo_edge.cluster.messages import CONTROL_VERSION, WorkerInfo, decode
from halo_edge.errors import HaloError

# Long enough for multicast scouting (a peer announces itself every second) on a slow network.
DISCOVERY_S: Final = 4.0
# Workers that are known to exist are waited for: a TCP connection over a lossy link may take
# several retransmissions, a second and more each.
EXPECTED_S: Final = 30.0
# Peers that hear each other at all do so within some 0.1 s of one another.
SETTLE_S: Final = 1.0
# Where who comes later is let in, nobody need be waited for but those who are as quick as others.
LET_IN_S: Final = 0.2
MAX_ASKED_AT_ONCE: Final = 16
ASK_TIMEOUT_S: Final = 3.0
POLL_S: Final = 0.05


def find_workers(
    session: zenoh.Session,
    cluster: str,
    *,
    expected: int | None,
    timeout_s: float,
    settle_s: float = SETTLE_S,
    check: Callable[[], None] = lambda: None,
) -> list[WorkerInfo]:
    """The workers of `cluster`, by name; returns early once there are `expected` of them.

    Without a number expected, when some were found and no more have come for `settle_s`.

    `check` is called while waiting and may raise. Raises `HaloError` if there are none, or fewer
    than expected, and says which other clusters there are.
    """
    deadline = time.monotonic() + timeout_s
    keys: list[str] = []
    settled_at = deadline
    while True:
        check()
        now = time.monotonic()
        alive = control.alive(session, control.worker_key(cluster, "*"))
        if alive != keys:
            keys, settled_at = alive, now + settle_s
        if expected is not None and len(keys) >= expected:
            keys = keys[:expected]
            break
        if now >= deadline or (expected is None and keys and now >= settled_at):
            break
        time.sleep(POLL_S)
    if not keys or (expected is not None and len(keys) < expected):
        raise HaloError(_too_few(session, cluster, len(keys), expected, timeout_s))
    with ThreadPoolExecutor(min(len(keys), MAX_ASKED_AT_ONCE)) as pool:
        return list(pool.map(lambda key: describe(session, key), keys))


def check_usable(worker: WorkerInfo) -> None:
    """Raises `HaloError` for a worker of another version, or one that serves another root."""
    check_version(worker)
    if worker.session:
        raise HaloError(
            f"worker {worker.worker} on {worker.host} is busy with another root's session; "
            f"wait for it to end"
        )


def check_version(worker: WorkerInfo) -> None:
    """Raises `HaloError` for a worker of another version."""
    if worker.control_version != CONTROL_VERSION:
        raise HaloError(
            f"worker {worker.worker} on {worker.host} runs HALO Edge {worker.version}, which "
            f"this root ({__version__}) cannot talk to; install the same version on both"
        )


def describe(session: zenoh.Session, key: str) -> WorkerInfo:
    """How the worker with that key presents itself. Raises `HaloError` if it does not answer."""
    return decode(control.ask(session, f"{key}/info", b"", ASK_TIMEOUT_S), WorkerInfo, key)


def _too_few(
    session: zenoh.Session, cluster: str, found: int, expected: int | None, timeout_s: float
) -> str:
    if found:
        return (
            f"found {found} of {expected} workers of cluster {cluster!r} in {timeout_s:.0f} s; "
            f"start the others with `halo worker --cluster {cluster}`"
        )
    others = {key.split("/")[1] for key in control.alive(session, "halo/*/worker/*")}
    seen = f" (there are workers of: {', '.join(sorted(others)[:8])})" if others else ""
    return (
        f"no workers of cluster {cluster!r} found in {timeout_s:.0f} s{seen}; "
        f"start some with `halo worker --cluster {cluster}`, or name one with --connect"
    )

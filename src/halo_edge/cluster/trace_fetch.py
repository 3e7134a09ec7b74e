"""What root and workers recorded, on the root's clock.

Monotonic clocks of two machines have nothing in common, so each worker's is compared with the
root's over the control plane, as NTP does (RFC 5905): of several exchanges the one with the
shortest round trip tells most, and the worker's answer is taken to lie in the middle of it (the
offset of section 8, with the worker's two timestamps equal; the clock filter of section 10).
The comparison is made once: a clock that runs 20 millionths faster is 20 us off a second earlier.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import zenoh
from numpy.typing import NDArray

from halo_edge.cluster import control
from halo_edge.cluster.messages import ClockReply, TraceReply, decode
from halo_edge.cluster.planner import ROOT_NAME
from halo_edge.engine.trace import Tracer, spans_of
from halo_edge.errors import HaloError

# As many as NTP's clock filter keeps.
EXCHANGES: Final = 8
CLOCK_TIMEOUT_S: Final = 3.0
# Two megabytes at most, over a slow radio.
TRACE_TIMEOUT_S: Final = 60.0


@dataclass(frozen=True)
class ClockOffset:
    """How far another clock is ahead of ours; the truth is within `uncertainty_ns` of it."""

    offset_ns: int = 0
    uncertainty_ns: int = 0


@dataclass(frozen=True, eq=False)
class DeviceTrace:
    """One device's spans, SPAN[n] (`engine.trace`), on the root's clock: `clock` is subtracted.

    `dropped`: how many more there would have been.
    """

    name: str
    spans: NDArray[Any]
    dropped: int
    clock: ClockOffset


@dataclass(frozen=True)
class Timeline:
    """What all devices recorded, the root first."""

    devices: tuple[DeviceTrace, ...]


def root_trace(tracer: Tracer) -> DeviceTrace:
    """The root's own."""
    return DeviceTrace(ROOT_NAME, spans_of(tracer.data()), tracer.dropped, ClockOffset())


def compare_clocks(
    ask: Callable[[], int], clock: Callable[[], int] = time.monotonic_ns
) -> ClockOffset:
    """`ask` gives the other clock's time, `clock` ours, in ns."""

    def exchange() -> ClockOffset:
        before = clock()
        theirs = ask()
        after = clock()
        return ClockOffset(theirs - (before + after) // 2, (after - before + 1) // 2)

    return min((exchange() for _ in range(EXCHANGES)), key=lambda found: found.uncertainty_ns)


def fetch_trace(
    session: zenoh.Session, cluster: str, worker: str, root_session: str
) -> DeviceTrace:
    """What `worker` recorded in our session. Raises `HaloError` when that cannot be had."""
    key = control.worker_key(cluster, worker)

    def ask() -> int:
        answer = control.ask(session, f"{key}/clock", b"", CLOCK_TIMEOUT_S)
        return decode(answer, ClockReply, worker).now_ns

    clock = compare_clocks(ask)
    reply = decode(control.ask(session, f"{key}/trace", b"", TRACE_TIMEOUT_S), TraceReply, worker)
    if reply.session != root_session:
        raise HaloError(f"worker {worker} has another root by now, and its trace is gone")
    try:
        spans = spans_of(reply.spans)
    except ValueError as error:
        raise HaloError(f"{worker} sent a malformed trace ({error})") from None
    for end in ("begin", "end"):
        spans[end] -= clock.offset_ns
    return DeviceTrace(worker, spans, reply.dropped, clock)

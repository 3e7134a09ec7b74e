"""Where the time of decode goes, from the traces of root and workers: means over tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from statistics import fmean
from typing import Final

from halo_edge.bench.markdown import Column, number, table
from halo_edge.cluster.trace_summary import RootTime, TokenTime, WorkerTime

ALL_WORKERS: Final = "mean of all"
# The fields of both are ms.
_ROUND_AT_ROOT: Final = (
    ("root: encode x", "encode_ms"),
    ("root: send x", "send_ms"),
    ("root: own FFN", "own_ffn_ms"),
    ("root: receive partials, ask again", "receive_ms"),
    ("root: wait", "wait_ms"),
    ("root: add partials", "add_ms"),
)
_ROUND_AT_WORKER: Final = (
    ("a worker: receive x", "receive_ms"),
    ("a worker: FFN", "compute_ms"),
    ("a worker: send its partial", "send_ms"),
)


@dataclass(frozen=True)
class Spent:
    """Means over `tokens` tokens, each of `rounds` rounds. `worker`: also over the workers; None
    for one device."""

    tokens: int
    rounds: int
    root: RootTime
    worker: WorkerTime | None


def spent(times: Sequence[TokenTime], rounds: int) -> Spent | None:
    """None where nothing was recorded."""
    if not times:
        return None
    root = {f.name: fmean(getattr(t.root, f.name) for t in times) for f in fields(RootTime)}
    workers = [worker for t in times for worker in t.workers]
    worker = None
    if workers:
        receive, compute, send = (
            fmean(getattr(w, name) for w in workers)
            for name in ("receive_ms", "compute_ms", "send_ms")
        )
        worker = WorkerTime(ALL_WORKERS, receive, compute, send)
    return Spent(len(times), rounds, RootTime(**root), worker)


def round_table(named: Sequence[tuple[str, Spent]]) -> str:
    """Microseconds of a mean round, one column for each name."""

    def us(where: Spent, of_root: bool, field: str) -> float | None:
        device = where.root if of_root else where.worker
        return None if device is None else getattr(device, field) / where.rounds * 1e3

    activities = [(label, True, field) for label, field in _ROUND_AT_ROOT]
    activities += [(label, False, field) for label, field in _ROUND_AT_WORKER]
    rows = [(label, [us(w, at_root, f) for _, w in named]) for label, at_root, f in activities]
    columns = [Column[tuple[str, list[float | None]]]("us a round", lambda row: row[0], left=True)]
    columns += [
        Column(name, lambda row, i=i: number(row[1][i]))  # type: ignore[misc]
        for i, (name, _) in enumerate(named)
    ]
    return table(columns, rows)

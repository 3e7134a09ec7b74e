"""Many fault schedules, over several processes."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor

from halo_edge.lab.fuzz import Report, run_schedule

# Handed to a process at a time; a schedule takes some 40 ms.
CHUNK = 20


def run_schedules(first: int, count: int, jobs: int) -> Iterator[Report]:
    """Of the seeds from `first` on, in order, by `jobs` processes."""
    seeds = range(first, first + count)
    if jobs == 1:
        yield from map(run_schedule, seeds)
        return
    context = multiprocessing.get_context("spawn")  # a fork would copy threads' locks
    with ProcessPoolExecutor(jobs, context) as pool:
        try:
            yield from pool.map(run_schedule, seeds, chunksize=CHUNK)
        finally:
            pool.shutdown(cancel_futures=True)

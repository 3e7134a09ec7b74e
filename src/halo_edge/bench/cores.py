"""On which cores a measurement runs."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from halo_edge.errors import HaloError


@contextmanager
def one_core() -> Iterator[None]:
    """Pin this process, and the children it starts meanwhile, to one core. Raises `HaloError`."""
    if not hasattr(os, "sched_setaffinity"):
        raise HaloError("pinning to one core needs Linux")
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {last_core()})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def last_core() -> int:
    """Of those this process may use. The first one has the interrupts on most machines."""
    if not hasattr(os, "sched_getaffinity"):
        raise HaloError("choosing a core needs Linux")
    return max(os.sched_getaffinity(0))

"""Keeps a session's plan up to date with who is there: in a thread of its own, beside the rounds.

When it is time for a new plan (`plan.admission`) it has the next epoch made ready and handed over;
the rounds go on with the one before meanwhile.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from halo_edge.cluster.messages import WorkerInfo
from halo_edge.errors import HaloError
from halo_edge.plan.admission import Admission
from halo_edge.sync.ids import DeviceId

# Leaving a session does not wait longer for a plan that is under way.
CLOSE_TIMEOUT_S: Final = 1.0
# More different workers than anybody has, in one session; what comes then is not let in.
MAX_WORKERS: Final = 1024


@dataclass(frozen=True)
class Came:
    """A worker of that name is there."""

    worker: str


@dataclass(frozen=True)
class Left:
    """It is there no more."""

    worker: str


class Replanner:
    """`ask` gets a worker's description, `replan` carries out a plan with these workers; both may
    raise `HaloError`. `tell` is given a line for the user."""

    def __init__(
        self,
        session: str,
        workers: Mapping[DeviceId, WorkerInfo],
        ask: Callable[[str], WorkerInfo],
        replan: Callable[[Mapping[DeviceId, WorkerInfo]], None],
        tell: Callable[[str], None],
    ) -> None:
        """`session`: the root's. `workers`: of the first plan, which is in use."""
        self._session = session
        self._workers = dict(workers)
        self._numbers = {worker.worker: device for device, worker in workers.items()}
        self._ask = ask
        self._replan = replan
        self._tell = tell
        self._events: queue.SimpleQueue[Came | Left | None] = queue.SimpleQueue()
        self._admission = Admission(workers)
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="replanner", daemon=True)
        self._thread.start()

    def put(self, event: Came | Left) -> None:
        """Any thread may."""
        self._events.put(event)

    def close(self) -> None:
        """Nothing is replanned from now on."""
        self._closed = True
        self._events.put(None)
        self._thread.join(CLOSE_TIMEOUT_S)

    def _run(self) -> None:
        while not self._closed:
            wait_s = self._admission.due_at() - time.monotonic()
            try:
                event = self._events.get(timeout=min(max(wait_s, 0.0), threading.TIMEOUT_MAX))
            except queue.Empty:
                self._make()
                continue
            if isinstance(event, Came):
                self._came(event.worker)
            elif isinstance(event, Left) and event.worker in self._numbers:
                self._admission.left(self._numbers[event.worker], time.monotonic())

    def _came(self, name: str) -> None:
        try:
            worker = self._ask(name)
        except HaloError:  # gone again
            return
        if worker.session not in ("", self._session):
            return  # another root's
        device = self._numbers.get(name)
        if device is None:
            if len(self._numbers) == MAX_WORKERS:
                return
            device = self._numbers[name] = DeviceId(max(self._numbers.values(), default=0) + 1)
        self._workers[device] = worker
        self._admission.came(device, has_part=worker.session == self._session)

    def _make(self) -> None:
        """The plan that is due."""
        members = self._admission.due(time.monotonic())
        if members is None or self._closed:
            return
        workers = {DeviceId(number): self._workers[DeviceId(number)] for number in sorted(members)}
        try:
            self._replan(workers)
        except HaloError as error:
            self._admission.failed(time.monotonic())
            if not self._closed:
                self._tell(f"no new plan yet: {error}")
            return
        self._admission.planned(members, time.monotonic())
        names = ", ".join(worker.worker for worker in workers.values()) or "the root alone"
        self._tell(f"a new plan: {names}")

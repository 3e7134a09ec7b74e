"""Keeps a session's plan up to date with who is there, and how fast: in a thread of its own, beside
the rounds.

When it is time for a new plan (`plan.admission`, `plan.balance`) it has the next epoch made ready
and handed over; the rounds go on with the one before meanwhile.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from halo_edge.cluster.messages import WorkerInfo
from halo_edge.errors import HaloError
from halo_edge.plan.admission import Admission
from halo_edge.plan.balance import Balance
from halo_edge.sync.ids import ROOT, DeviceId

# Leaving a session does not wait longer for a plan that is under way.
CLOSE_TIMEOUT_S: Final = 1.0
# How often devices are asked how fast they are.
POLL_S: Final = 1.0
# More different workers than anybody has, in one session; what comes then is not let in.
MAX_WORKERS: Final = 1024
# Comings and goings that wait while a plan is carried out.
MAX_EVENTS: Final = 4 * MAX_WORKERS

Replan = Callable[[Mapping[DeviceId, WorkerInfo], Mapping[int, float]], Mapping[int, int]]


@dataclass(frozen=True)
class Came:
    """A worker of that name is there."""

    worker: str


@dataclass(frozen=True)
class Left:
    """It is there no more."""

    worker: str


class Replanner:
    """`ask` gets a worker's description. `replan` carries out a plan with these workers, and shares
    like these, by device; it returns how many neurons each then has. Both may raise `HaloError`.
    `own_speed`: the root's, in neurons a second. `tell` is given a line for the user."""

    def __init__(
        self,
        session: str,
        workers: Mapping[DeviceId, WorkerInfo],
        neurons: Mapping[int, int],
        ask: Callable[[str], WorkerInfo],
        replan: Replan,
        own_speed: Callable[[], float] | None,
        tell: Callable[[str], None],
    ) -> None:
        """`session`: the root's. `workers`, `neurons`: of the first plan, which is in use.
        `own_speed` None: shares do not follow speeds."""
        self._session = session
        self._workers = dict(workers)
        self._numbers = {worker.worker: device for device, worker in workers.items()}
        self._members = tuple(workers)
        self._neurons = neurons
        self._balance = Balance()
        self._own_speed = own_speed
        self._ask = ask
        self._replan = replan
        self._tell = tell
        self._events: queue.Queue[Came | Left | None] = queue.Queue(MAX_EVENTS)
        self._admission = Admission(workers)
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="replanner", daemon=True)
        self._thread.start()

    def put(self, event: Came | Left) -> None:
        """Any thread may. What is more than anybody causes is not heard of."""
        with contextlib.suppress(queue.Full):
            self._events.put_nowait(event)

    def close(self) -> None:
        """Nothing is replanned from now on."""
        self._closed = True
        with contextlib.suppress(queue.Full):  # then there is something to wake it
            self._events.put_nowait(None)
        self._thread.join(CLOSE_TIMEOUT_S)

    def _run(self) -> None:
        try:
            self._follow()
        except Exception:
            if not self._closed:  # what fails at the end is that the control plane has gone
                raise

    def _follow(self) -> None:
        while not self._closed:
            wait_s = self._admission.due_at() - time.monotonic()
            try:
                event = self._events.get(timeout=min(max(wait_s, 0.0), POLL_S))
            except queue.Empty:
                self._look()
                continue
            if isinstance(event, Came):
                self._came(event.worker)
            elif isinstance(event, Left) and event.worker in self._numbers:
                self._admission.left(self._numbers[event.worker], time.monotonic())

    def _look(self) -> None:
        """Whether a plan is due, and carry it out."""
        members = self._admission.due(time.monotonic())
        if members is not None:
            self._make([DeviceId(number) for number in sorted(members)])
        elif self._own_speed is not None and self._unbalanced(self._own_speed()):
            self._make(self._members)

    def _unbalanced(self, own_speed: float) -> bool:
        self._balance.measured(ROOT, own_speed)
        for device in self._members:
            with contextlib.suppress(HaloError):  # away; that is admission's business
                worker = self._ask(self._workers[device].worker)
                self._balance.measured(device, worker.decode_neurons_per_s)
        return self._balance.due(self._neurons, time.monotonic())

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

    def _make(self, members: Sequence[DeviceId]) -> None:
        """A plan with these workers."""
        workers = {device: self._workers[device] for device in members}
        weights = self._balance.weights([ROOT, *members])
        try:
            self._neurons = self._replan(workers, weights)
        except HaloError as error:
            self._admission.failed(time.monotonic())
            self._balance.planned(time.monotonic())  # not again at once
            if not self._closed:
                self._tell(f"no new plan yet: {error}")
            return
        self._members = tuple(members)
        self._admission.planned(frozenset(members), time.monotonic())
        self._balance.planned(time.monotonic())
        self._tell(f"a new plan: {self._shares()}")

    def _shares(self) -> str:
        """As people read them."""
        total = sum(self._neurons.values())
        names = {ROOT: "root"} | {d: self._workers[d].worker for d in self._members}
        return ", ".join(
            f"{name} {100 * self._neurons.get(device, 0) / total:.0f} %"
            for device, name in names.items()
        )

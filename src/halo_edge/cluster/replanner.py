"""Keeps a session's plan up to date with who is there, and how fast: in a thread of its own, beside
the rounds.

When it is time for a new plan (`plan.admission`, `plan.replanning`) it has the next epoch made
ready and handed over; the rounds go on with the one before meanwhile.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Sequence, Set
from typing import Final

from halo_edge.cluster.first_step import FirstStep
from halo_edge.cluster.membership import Came, Left, Needed
from halo_edge.cluster.messages import WorkerInfo
from halo_edge.cluster.planner import (
    ROOT_NAME,
    Planned,
    Planner,
    Workers,
    shares_in_words,
    shares_of,
)
from halo_edge.errors import HaloError
from halo_edge.plan.admission import Admission
from halo_edge.plan.plan import Plan
from halo_edge.plan.silence import Silence
from halo_edge.sync.ids import ROOT, DeviceId

# Leaving a session does not wait longer for a plan that is under way.
CLOSE_TIMEOUT_S: Final = 1.0
# How often the planner is asked whether there is a better plan.
POLL_S: Final = 1.0
# More different workers than anybody has, in one session; what comes then is not let in.
MAX_WORKERS: Final = 1024
# Comings and goings that wait while a plan is carried out.
MAX_EVENTS: Final = 4 * MAX_WORKERS

CarryOut = Callable[[Plan, Workers], None]
Hurry = Callable[[Plan, Workers], bool]


class Replanner:
    """`ask` gets a worker's description. `carry_out` makes a plan with these workers the one in
    use; `hurry` does the same with one that moves nothing, leaving out what takes time. It says
    whether it did: then the plan is to be carried out again. All may raise `HaloError`. `tell` is
    given a line for the user.

    Its thread starts with `follow`, `complete_and_follow` or `plan_and_follow`.
    """

    def __init__(
        self,
        session: str,
        workers: Workers,
        plan: Plan,
        planner: Planner,
        ask: Callable[[str], WorkerInfo],
        carry_out: CarryOut,
        hurry: Hurry,
        tell: Callable[[str], None],
        absent: Callable[[float], Set[DeviceId]],
    ) -> None:
        """`session`: the root's. `workers`: that are there. `plan`: in use. `absent`: who is taken
        for gone at a time; it may take seconds."""
        self._session = session
        self._workers = dict(workers)
        self._numbers = {worker.worker: device for device, worker in workers.items()}
        self._members = tuple(workers)
        self._plan = plan
        self._ready = _parts(plan)
        self._planner = planner
        self._ask = ask
        self._carry_out = carry_out
        self._hurry = hurry
        self._tell = tell
        self._events: queue.Queue[Came | Left | Needed | None] = queue.Queue(MAX_EVENTS)
        self._urgent = False  # somebody left since it was last looked who might replace it
        self._incomplete = False  # the plan in use is to be carried out again
        self._admission = Admission(workers)
        self._absent = absent
        self._silence = Silence()
        self._first_step = FirstStep()
        self._closed = False
        self._thread: threading.Thread | None = None

    def follow(self) -> None:
        """From now on; the plan in use was made for these workers."""
        self._start(self._follow)

    def complete_and_follow(self, begun_steps: Callable[[], int]) -> None:
        """From now on; the plan in use was made for these workers, but in a hurry. It is carried
        out again when the first of the steps that were begun is done."""

        def run() -> None:
            self._first_step.wait(begun_steps)
            self._incomplete = True
            self._follow()

        self._start(run)

    def plan_and_follow(self, begun_steps: Callable[[], int]) -> None:
        """From now on; the plan in use is one without them, until there is a better one.

        That is thought of when the first of the steps that were begun is done.
        """

        def run() -> None:
            self._first_step.wait(begun_steps)
            self._plan_first()
            self._follow()

        self._start(run)

    def put(self, event: Came | Left | Needed) -> None:
        """Any thread may. What is more than anybody causes is not heard of."""
        with contextlib.suppress(queue.Full):
            self._events.put_nowait(event)
        if not isinstance(event, Came):
            self._first_step.interrupt()

    @property
    def known(self) -> Workers:
        """All that are, or were, there. Any thread may ask."""
        return dict(self._workers)

    def close(self) -> None:
        """Nothing is replanned from now on."""
        self._closed = True
        self._first_step.interrupt()
        with contextlib.suppress(queue.Full):  # then there is something to wake it
            self._events.put_nowait(None)
        if self._thread is not None:
            self._thread.join(CLOSE_TIMEOUT_S)

    def _start(self, run: Callable[[], None]) -> None:
        def guarded() -> None:
            try:
                run()
            except Exception:
                if not self._closed:  # what fails at the end is that the control plane has gone
                    raise

        self._thread = threading.Thread(target=guarded, name="replanner", daemon=True)
        self._thread.start()

    def _plan_first(self) -> None:
        if self._closed:
            return
        workers = self._chosen(self._members)
        try:
            made = self._planner.plan(workers)
            self._tell(in_words("plan", made, workers))
            # Also where its shares are those in use: in a plan that lasts weights are repacked.
            self._carry_out(made.plan, workers)
        except HaloError as error:
            self._failed(error)
            self._members = ()
            for device in workers:  # they are wanted, when it is time to try again
                self._admission.came(device, has_part=False)
        else:
            self._ready = _parts(made.plan)
            self._in_use(made.plan, workers)

    def _follow(self) -> None:
        while not self._closed:
            wait_s = self._admission.due_at() - time.monotonic()
            if self._urgent or self._incomplete:
                wait_s = 0.0  # after all that has happened: several may have left
            try:
                event = self._events.get(timeout=min(max(wait_s, 0.0), POLL_S))
            except queue.Empty:
                self._look()
                continue
            if event is not None:
                self._happened(event)

    def _happened(self, event: Came | Left | Needed) -> None:
        now = time.monotonic()
        if isinstance(event, Came):
            self._came(event.worker)
        elif event.worker in self._numbers:
            device = self._numbers[event.worker]
            if isinstance(event, Left):
                self._admission.left(device, now)
            else:
                self._admission.needed(device, now)
            self._urgent = True

    def _look(self) -> None:
        """Whether a plan is due, and carry it out."""
        now = time.monotonic()
        urgent, self._urgent = self._urgent, False
        self._listen(now)
        if self._replaced(now):
            return
        members = self._admission.due(now)
        if members is not None:
            chosen = self._chosen([DeviceId(number) for number in sorted(members)])
            self._make(chosen, lambda: self._planner.plan(chosen))
            return
        chosen = self._chosen(self._members)
        if self._incomplete:
            self._complete(chosen)
            return
        if urgent:  # just now the root begins to compute for who left: that comes first
            return
        try:
            better = self._planner.better(self._plan, chosen, now)
        except HaloError:  # what is in use goes on
            return
        if better is not None:
            self._make(chosen, lambda: better)

    def _listen(self, now: float) -> None:
        """Who says nothing for long has left; and may be back."""
        for number in self._silence.gone(self._absent(now), now):
            self._admission.left(number, now)
        for number in self._silence.to_ask(now):
            self._came(self._workers[DeviceId(number)].worker)

    def _replaced(self, now: float) -> bool:
        """Whether others, who hold the weights of those that left, are to go on with their work."""
        left = self._admission.replaceable(now) & {*self._plan.workers}
        if not left:
            return False
        chosen = self._chosen([device for device in self._members if device not in left])
        made = self._planner.inherited(self._plan, chosen)
        if made is None:
            return False
        try:
            self._incomplete = self._hurry(made.plan, chosen)
        except HaloError as error:
            self._failed(error)
            return True
        self._ready = _parts(made.plan)
        self._plan, self._members = made.plan, tuple(chosen)
        self._admission.replaced(left, time.monotonic())
        self._planner.planned(time.monotonic())
        self._tell(in_words("a new plan", made, chosen))
        return True

    def _complete(self, workers: Workers) -> None:
        """The plan in use, with what was left out in a hurry."""
        self._incomplete = False
        try:
            self._carry_out(self._plan, workers)
        except HaloError as error:
            if not self._closed:
                self._tell(f"what is lost is waited for: {error}")

    def _chosen(self, members: Sequence[DeviceId]) -> Workers:
        return {device: self._workers[device] for device in members}

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
        self._silence.back(device)
        if worker.session != self._session:
            self._ready.discard(device)
        # Who has no share in the plan needs no part in it.
        has_part = device in self._ready or device not in self._plan.workers
        self._admission.came(device, has_part=has_part)

    def _make(self, workers: Workers, plan: Callable[[], Planned]) -> None:
        """A plan with these workers."""
        try:
            made = plan()
            parts = _parts(made.plan)
            if _held(made.plan) != _held(self._plan) or not parts <= self._ready:
                self._carry_out(made.plan, workers)
                self._ready = parts
                self._incomplete = False
                self._tell(in_words("a new plan", made, workers))
        except HaloError as error:
            self._failed(error)
        else:
            self._in_use(made.plan, workers)

    def _in_use(self, plan: Plan, workers: Workers) -> None:
        self._plan, self._members = plan, tuple(workers)
        self._admission.planned(frozenset(workers), time.monotonic())
        self._planner.planned(time.monotonic())

    def _failed(self, error: HaloError) -> None:
        self._admission.failed(time.monotonic())
        self._planner.planned(time.monotonic())  # not again at once
        if not self._closed:
            self._tell(f"no new plan yet: {error}")


def _parts(plan: Plan) -> set[DeviceId]:
    return set(map(DeviceId, plan.workers))


def _held(plan: Plan) -> dict[int, tuple[range, tuple[range, ...]]]:
    return {d: (share, plan.replicas_on(d)) for d, share in shares_of(plan).items()}


def in_words(what: str, made: Planned, workers: Workers) -> str:
    """A line for the user."""
    names = {ROOT: ROOT_NAME} | {device: worker.worker for device, worker in workers.items()}
    return "; ".join(filter(None, [f"{what}: {shares_in_words(made.plan, names)}", made.words]))

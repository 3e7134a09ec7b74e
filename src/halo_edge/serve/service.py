"""The thread that owns the engine: requests in, pieces of answers out.

Everything of the engine happens in that thread, a step at a time; between two steps it takes in
new requests and cancellations. It knows nothing of HTTP.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable
from collections.abc import Sequence as SequenceOf
from typing import Final

from halo_edge.cluster.session import Session
from halo_edge.engine.engine import MAX_RUNNING, Engine, NewToken
from halo_edge.engine.generation import Answer
from halo_edge.engine.pace import MAX_ADDED_S
from halo_edge.engine.sequence import FinishReason, Sequence
from halo_edge.errors import HaloError
from halo_edge.serve.inbox import Inbox
from halo_edge.serve.job import Job
from halo_edge.serve.request import Busy, Listener, Load, Request
from halo_edge.serve.stream import Delivery, Mailbox, Stream

MAX_WAITING: Final = 128
"""Requests that wait for their first step. Prompts are in memory, and nobody waits for ever."""

RETRY_FOR_S: Final = 20.0
"""A step that fails is tried again for so long: a worker that left is replaced in a few seconds,
one that stalls is noticed after ten."""

RETRY_AFTER_S: Final = 0.2
"""And so long after it failed."""

CLOSE_TIMEOUT_S: Final = 10.0

_NEWEST: Final = 0.2
"""The weight of a new measurement."""

_log = logging.getLogger(__name__)


class Service:
    """An engine for many. Its thread runs from the start until `close`."""

    def __init__(
        self,
        session: Session,
        *,
        listeners: SequenceOf[Listener] = (),
        max_running: int = MAX_RUNNING,
        max_waiting: int = MAX_WAITING,
        max_added_s: float = MAX_ADDED_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Nobody else may use the session's engine meanwhile. `listeners`: see `Listener`.
        `max_added_s`: so much longer may a step take for prompts that it takes along."""
        model = session.model
        self._session = session
        self._tokenizer = model.tokenizer
        self._engine = Engine(
            model.forward,
            session.gather,
            context=model.context,
            end_tokens=model.tokenizer.eog_ids,
            max_running=max_running,
            max_added_s=max_added_s,
            clock=clock,
        )
        self._listeners = listeners
        self._clock = clock
        self._inbox = Inbox(max_waiting, clock)
        # The thread's own.
        self._jobs: dict[Stream, Job] = {}
        self._by_sequence: dict[Sequence, Job] = {}
        self._deliveries: dict[Mailbox, list[Delivery]] = {}
        self._failing_since_s: float | None = None
        self._trouble = ""
        self._request_s = 1.0  # what one takes from its first step to its end, lately
        self._load = Load()
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    def submit(self, request: Request) -> Stream:
        """Have a request answered. In an event loop, which its stream then belongs to.

        Raises `Busy` when too many wait, and `HaloError` for a prompt that cannot be answered, a
        budget that takes a profile, or a service that is being closed.
        """
        self._engine.check(request.prompt)
        self._check_budget(request.kl_budget)
        try:
            return self._inbox.put(request, self._retry_after_s())
        except Busy:
            for listener in self._listeners:
                listener.refused(request)
            raise

    @property
    def load(self) -> Load:
        """How busy it is, since the last step. Any thread may ask."""
        return self._load

    @property
    def trouble(self) -> str:
        """Why steps fail at present, if they do. Any thread may ask."""
        return self._trouble

    def close(self, timeout_s: float = CLOSE_TIMEOUT_S) -> None:
        """Take no more requests, and let those under way go on for so long; then they fail. Not in
        an event loop that answers are read in."""
        self._inbox.close(self._clock() + timeout_s)
        # A step may wait for a worker that stalls; the thread ends with the process then.
        self._thread.join(timeout_s + RETRY_FOR_S)

    def _check_budget(self, nats_per_token: float | None) -> None:
        if nats_per_token is None:
            return
        if not 0 <= nats_per_token < math.inf:
            raise HaloError(f"kl_budget is a number of nats from 0 (strict), not {nats_per_token}")
        cluster = self._session.cluster
        if nats_per_token > 0 and cluster is not None and cluster.packing.profile is None:
            raise HaloError(
                "kl_budget takes a profile, which says what going on without chunks would cost; "
                "make one with `halo calibrate`, or be strict (0)"
            )

    def _retry_after_s(self) -> float:
        """When one that runs is likely to end, so that one that waits begins and leaves room."""
        return max(1.0, self._request_s / max(1, self._load.running))

    # What follows runs in the service's thread.

    def _run(self) -> None:
        try:
            while True:
                try:
                    if not self._take_in():
                        break
                    self._step()
                except Exception as error:  # a mistake of ours must not end everybody's service
                    _log.exception("a step failed")
                    told = HaloError(f"internal error: {type(error).__name__}: {error}")
                    self._fail(list(self._jobs.values()), told)
                self._tell()
        finally:
            self._inbox.close(self._clock())
            arrived, _ = self._inbox.take()
            self._jobs |= {job.stream: job for job in arrived}
            self._fail(list(self._jobs.values()), HaloError("the server was stopped"))
            self._tell()

    def _take_in(self) -> bool:
        """Wait for something to do, and take in what has come; False when it is time to end."""
        if self._failing_since_s is not None:
            self._inbox.pause(RETRY_AFTER_S)
        if not self._jobs:
            self._failing_since_s, self._trouble = None, ""
            if not self._inbox.wait():
                return False
        arrived, cancelled = self._inbox.take()
        closing = self._inbox.overdue
        self._jobs |= {job.stream: job for job in arrived}  # first: one may fail all
        for job in arrived:
            self._begin(job)
        for stream in cancelled:
            if stream in self._jobs:
                self._end(self._jobs[stream])
        for job in [job for job in self._jobs.values() if job.mailbox.closed]:
            self._end(job)
        return not closing

    def _begin(self, job: Job) -> None:
        request, cluster = job.request, self._session.cluster
        try:
            sequence = self._engine.add(
                request.prompt, request.params, request.user, request.constraint
            )
            job.sequence = sequence
            self._by_sequence[sequence] = job
            job.answer = Answer(self._tokenizer, request.params.stop)
            if cluster is not None and request.kl_budget is not None:
                cluster.open_account(sequence.id, request.kl_budget)
        except HaloError as error:
            self._end(job, error=error)

    def _step(self) -> None:
        cluster, spent = self._session.cluster, None
        if cluster is not None and any(job.begun_s is None for job in self._jobs.values()):
            spent = cluster.spent
        begun_s = self._clock()
        try:
            new_tokens = self._engine.step()
        except HaloError as error:
            self._failed(error)
            return
        self._failing_since_s, self._trouble = None, ""
        now_s = self._clock()
        for job in list(self._jobs.values()):
            assert job.sequence is not None  # the thread has seen all that are among its jobs
            if job.begun_s is None and job.sequence.begun:
                job.begun_s, job.spent = begun_s, spent
                self._inbox.begun(job.request.user)
            if job.sequence.error is not None:
                self._end(job, error=job.sequence.error)
        for new in new_tokens:
            self._take_token(new, now_s)

    def _failed(self, error: HaloError) -> None:
        """A step did: perhaps the cluster recovers, else those under way have to be told."""
        now_s, self._trouble = self._clock(), str(error)
        if self._failing_since_s is None:
            self._failing_since_s = now_s
            _log.warning("a step failed, and is tried again: %s", error)
        elif now_s - self._failing_since_s > RETRY_FOR_S:
            self._failing_since_s = None
            self._fail_begun(error)

    def _fail_begun(self, error: HaloError) -> None:
        """Those that were computed; the others may fare better."""
        jobs = list(self._jobs.values())
        self._fail([job for job in jobs if job.sequence and job.sequence.begun], error)

    def _fail(self, jobs: SequenceOf[Job], error: HaloError) -> None:
        for job in jobs:
            self._end(job, error=error)

    def _take_token(self, new: NewToken, now_s: float) -> None:
        job = self._by_sequence.get(new.sequence)
        if job is None or job.answer is None:
            return
        first = job.first_s is None
        since_s = job.token(now_s)
        text, finish = job.answer.push(new.sampled.token_id, new.sequence.finish)
        for listener in self._listeners:
            listener.token(job.request, since_s, first=first)
        if finish is None:
            self._deliver(job, Delivery(job.stream, text, new.sampled))
        else:
            self._end(job, text, new, finish)

    def _end(
        self,
        job: Job,
        text: str = "",
        new: NewToken | None = None,
        finish: FinishReason | None = None,
        error: HaloError | None = None,
    ) -> None:
        """Nothing more comes of a request. Without `finish` and `error` nobody wants it."""
        now_s, sequence = self._clock(), job.sequence
        del self._jobs[job.stream]
        if job.begun_s is None:
            self._inbox.begun(job.request.user)
        else:
            self._request_s += _NEWEST * (now_s - job.begun_s - self._request_s)
        if sequence is not None:
            del self._by_sequence[sequence]
            self._engine.end(sequence)
        price = job.close_account(self._session.cluster)
        answered = job.answered(now_s, price, finish, error)
        for listener in self._listeners:
            listener.ended(answered)
        token = new.sampled if new is not None else None
        self._deliver(job, Delivery(job.stream, text, token, finish, answered, error))

    def _deliver(self, job: Job, delivery: Delivery) -> None:
        self._deliveries.setdefault(job.mailbox, []).append(delivery)

    def _tell(self) -> None:
        """The event loops and whoever asks for the load."""
        engine = self._engine
        self._load = Load(
            engine.n_running,
            self._inbox.n_waiting,
            engine.n_cells_used / engine.n_cells,
            engine.n_cells_kept / engine.n_cells,
        )
        deliveries, self._deliveries = self._deliveries, {}
        for mailbox, new in deliveries.items():
            mailbox.put(new)

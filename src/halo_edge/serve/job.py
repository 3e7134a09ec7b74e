"""The books of one request under way, from when it was submitted until nothing more comes of it.

Nothing here knows threads or steps: the service says what happened, and when by its clock.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from halo_edge.cluster.relaxation import Spent
from halo_edge.cluster.root import Cluster
from halo_edge.engine.generation import Answer
from halo_edge.engine.sequence import FinishReason, Sequence
from halo_edge.errors import HaloError
from halo_edge.serve.request import Answered, Price, Request
from halo_edge.serve.stream import Mailbox, Stream


@dataclass(eq=False)
class Job:
    """A request under way. Times by the service's clock, in seconds."""

    stream: Stream
    mailbox: Mailbox
    submitted_s: float
    begun_s: float | None = None
    first_s: float | None = None
    last_s: float = 0.0
    generated: int = 0
    sequence: Sequence | None = None  # None: the engine's thread has not seen it yet
    answer: Answer | None = None
    spent: Spent | None = None  # by all, when it was begun

    @property
    def request(self) -> Request:
        return self.stream.request

    def token(self, now_s: float) -> float:
        """One more has come; how long after the one before, or after the request."""
        since_s = now_s - (self.submitted_s if self.first_s is None else self.last_s)
        if self.first_s is None:
            self.first_s = now_s
        self.last_s = now_s
        self.generated += 1
        return since_s

    def close_account(self, cluster: Cluster | None) -> Price:
        """What it cost, now that it has ended. `cluster`: that computed it, if one did."""
        if cluster is None or self.sequence is None:
            return Price()
        nats, devices = cluster.close_account(self.sequence.id), 1 + len(cluster.members)
        if self.spent is None:
            return Price(devices=devices)
        spent = cluster.spent.since(self.spent)
        return Price(
            nats,
            math.exp(-nats),
            spent.chunks_recovered,
            spent.chunks_filled,
            spent.chunks_taken_over,
            devices,
        )

    def answered(
        self, now_s: float, price: Price, finish: FinishReason | None, error: HaloError | None
    ) -> Answered:
        """What became of it, which ended now."""
        begun_s = self.begun_s if self.begun_s is not None else now_s
        return Answered(
            request=self.request,
            finish=finish,
            error=str(error) if error is not None else "",
            prompt_tokens=len(self.request.prompt),
            reused_tokens=self.sequence.n_reused if self.sequence is not None else 0,
            generated_tokens=self.generated,
            queued_s=begun_s - self.submitted_s,
            ttft_s=self.first_s - self.submitted_s if self.first_s is not None else None,
            total_s=now_s - self.submitted_s,
            price=price,
        )

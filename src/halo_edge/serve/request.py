"""What crosses between the HTTP side and the thread that drives the engine: a request, the pieces
of its answer, what the answer cost, and who wants to know of it.

Nothing here knows HTTP, or how tokens are made.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from halo_edge.engine.constraint import Constraint as Constraint
from halo_edge.engine.sampling import Sampled, SamplingParams
from halo_edge.engine.sequence import FinishReason
from halo_edge.errors import HaloError


class Busy(HaloError):
    """There is no room for another request. `retry_after_s`: when there is likely to be some."""

    def __init__(self, message: str, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


@dataclass(frozen=True, eq=False)
class Request:
    """One sequence that somebody wants. `id`: names it in logs. `user`: whom fairness is owed to.
    `kl_budget`: nats a token; None: the server's."""

    id: str
    prompt: Sequence[int]
    params: SamplingParams
    user: str
    kl_budget: float | None = None
    constraint: Constraint | None = None


@dataclass(frozen=True)
class Piece:
    """What has come of an answer since the piece before. `text` may be empty while tokens come,
    and tokens may be none at the end. `finish`: only with the last piece."""

    text: str
    tokens: tuple[Sampled, ...]
    finish: FinishReason | None = None


@dataclass(frozen=True)
class Price:
    """What an answer cost beyond what came by itself. `nats`: predicted damage of this sequence's
    tokens. Chunks: of all rounds while it was computed, which it shares with others of its step.
    `devices`: those of the plan in use, the root included."""

    nats: float = 0.0
    fidelity: float = 1.0
    recovered: int = 0
    filled: int = 0
    taken_over: int = 0
    devices: int = 1


@dataclass(frozen=True)
class Answered:
    """A request that has ended, for logs and metrics. Times in seconds; `finish`: None if it was
    cancelled or failed. `reused_tokens`: of the prompt, found in the KV cache."""

    request: Request
    finish: FinishReason | None
    error: str
    prompt_tokens: int
    reused_tokens: int
    generated_tokens: int
    queued_s: float
    ttft_s: float | None
    total_s: float
    price: Price


class Listener(Protocol):
    """Is told what becomes of requests, in the engine's thread: it must be quick, and not raise."""

    def token(self, request: Request, since_s: float, *, first: bool) -> None:
        """One came, so long after the one before, or after the request if it is the `first`."""
        ...

    def ended(self, answered: Answered) -> None:
        """Nothing more comes of this one."""
        ...


@dataclass(frozen=True)
class Load:
    """How busy a service is. `kv_used`: share of the KV cache's cells in use by running and kept
    sequences; `kv_kept`: of those that are kept only to be reused."""

    running: int = 0
    waiting: int = 0
    kv_used: float = 0.0
    kv_kept: float = 0.0

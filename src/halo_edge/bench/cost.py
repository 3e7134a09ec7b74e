"""What the rounds of a token had to buy, and how tables show it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from halo_edge.bench import markdown
from halo_edge.cluster.relaxation import Spent


@dataclass(frozen=True)
class Cost:
    """Chunks of a mean token that did not come by themselves, and the damage of those filled."""

    recovered: float
    filled: float
    taken_over: float
    nats: float

    @classmethod
    def of(cls, spent: Sequence[Spent], tokens: int) -> Cost:
        """`spent`: in several measurements, for so many tokens together."""
        return cls(
            sum(s.chunks_recovered for s in spent) / tokens,
            sum(s.chunks_filled for s in spent) / tokens,
            sum(s.chunks_taken_over for s in spent) / tokens,
            sum(s.nats for s in spent) / tokens,
        )


def filled(cost: Cost | None) -> str:
    """Chunks a token; nothing for results from before they were counted."""
    return markdown.NOTHING if cost is None else markdown.number(cost.filled)

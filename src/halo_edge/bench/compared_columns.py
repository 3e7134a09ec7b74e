"""How tables show a run that was compared with the strict one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, TypeVar

from halo_edge.bench import markdown
from halo_edge.bench.compared import Comparison
from halo_edge.bench.markdown import Column

RowT = TypeVar("RowT")
# The last columns, which say how long it took.
N_TIMES: Final = 3


def compared_columns(
    of: Callable[[RowT], Comparison], *, times: bool = True
) -> Sequence[Column[RowT]]:
    """Of rows that hold a comparison. `times`: with how long the compared run took."""
    columns: Sequence[tuple[str, Callable[[Comparison], str]]] = (
        ("perplexity", _perplexity),
        ("KL, nats a token", _kl),
        ("reported", lambda c: f"{c.cost.nats:.4f}"),
        ("KL / reported", _per_reported),
        ("honest", lambda c: "yes" if c.honest else "no"),
        ("filled", lambda c: markdown.number(c.cost.filled)),
        ("recovered", lambda c: markdown.number(c.cost.recovered)),
        ("taken over", lambda c: markdown.number(c.cost.taken_over)),
        ("TPOT, ms", lambda c: markdown.number(c.tpot_ms)),
        ("against strict, clean", lambda c: markdown.ratio(c.tpot_ms / c.strict_tpot_ms)),
        ("longest step, ms", lambda c: markdown.number(c.max_step_ms)),
    )
    shown = columns if times else columns[:-N_TIMES]
    return [
        Column(heading, lambda row, show=show: show(of(row)))  # type: ignore[misc]
        for heading, show in shown
    ]


def _perplexity(c: Comparison) -> str:
    return f"{c.ppl_change * 100:+.2f} % ± {c.ppl_change_stderr * 100:.2f}"


def _kl(c: Comparison) -> str:
    return f"{c.divergence.kl:.4f} ± {c.divergence.stderr:.4f}"


def _per_reported(c: Comparison) -> str:
    return f"{c.divergence.kl / c.cost.nats:.2f}" if c.cost.nats else markdown.NOTHING

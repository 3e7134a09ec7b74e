"""Tables in Markdown, and figures in the form in which tables show them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from halo_edge.bench.median import Interval

RowT = TypeVar("RowT")
NOTHING = "-"


@dataclass(frozen=True)
class Column(Generic[RowT]):
    """`show`: a cell's text. Numbers stand to the right, words (`left`) to the left."""

    heading: str
    show: Callable[[RowT], str]
    left: bool = False


def table(columns: Sequence[Column[Any]], rows: Sequence[Any]) -> str:
    """Without a newline at the end. Columns are padded, as text is read too."""
    cells = [[column.heading for column in columns]]
    cells += [[column.show(row).replace("|", r"\|") for column in columns] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    rule = [
        "-" * width if column.left else "-" * max(1, width - 1) + ":"
        for column, width in zip(columns, widths, strict=True)
    ]
    lines = [cells[0], rule, *cells[1:]]
    return "\n".join(
        "| "
        + " | ".join(
            cell.ljust(width) if column.left else cell.rjust(width)
            for cell, width, column in zip(line, widths, columns, strict=True)
        )
        + " |"
        for line in lines
    )


def number(value: float | None) -> str:
    """Three digits that mean something, or as many as stand before the point."""
    if value is None:
        return NOTHING
    digits = 0 if abs(value) >= 99.95 else 1 if abs(value) >= 9.995 else 2
    return f"{value:,.{digits}f}"


def median(value: float | None, at_least: float | None) -> str:
    """`> 1,234` where measurements were cut short."""
    return number(value) if at_least is None else f"> {number(at_least)}"


def interval(found: Interval | None) -> str:
    """`90.0 to 96.1`, or `90.0 to ?` where it is open."""
    if found is None:
        return NOTHING
    return f"{number(found.low)} to {'?' if found.high is None else number(found.high)}"


def ratio(value: float | None, at_least: float | None = None) -> str:
    if value is None and at_least is None:
        return NOTHING
    return f"{value:.2f}x" if at_least is None else f"> {number(at_least)}x"


def percent(share: float) -> str:
    return f"{share * 100:.4g} %"

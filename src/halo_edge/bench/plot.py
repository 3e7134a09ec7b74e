"""Plots as SVG files: the same rows give the same bytes, to be kept in a repository.

The background is white whatever the page's is, so that black text can be read on a dark page too;
lines and text are sized for a page as wide as a phone. Colours are those of Okabe and Ito, which
colour-blind people can tell apart, and every series has a marker of its own besides.

matplotlib is imported when a figure is made, and not before: it is heavy, and comes only with
`halo-edge[bench]`.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from halo_edge.bench.median import Interval
from halo_edge.errors import HaloError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SIZE_INCHES: Final = (5.2, 3.6)  # 374 x 259 pixels of a page
COLOURS: Final = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#666666")
MARKERS: Final = ("o", "s", "^", "D", "v", "P", "X")
_STYLE: Final = {
    "svg.hashsalt": "halo-edge",  # names inside the file are else random
    "svg.fonttype": "path",  # looks the same everywhere
    "font.family": "DejaVu Sans",  # comes with matplotlib
    "font.size": 10,
    "axes.titlesize": 10,
    "legend.fontsize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#dddddd",
    "figure.facecolor": "white",
    "lines.linewidth": 1.8,
    "lines.markersize": 5,
    "errorbar.capsize": 3,
}


@dataclass(frozen=True)
class Point:
    """A median at `x`. `at_least`: it is `y` or more; drawn as an arrow."""

    x: float
    y: float
    interval: Interval | None = None
    at_least: bool = False


@contextmanager
def axes(x_label: str, y_label: str) -> Iterator[tuple[Figure, Axes]]:
    """A figure with one pair of labelled axes, to be drawn on inside the block.

    Raises `HaloError` where matplotlib is not installed.
    """
    with panels([1], 1) as (figure, ((plot,),)):
        plot.set_xlabel(x_label)
        plot.set_ylabel(y_label)
        yield figure, plot


@contextmanager
def panels(
    heights: Sequence[float], columns: int
) -> Iterator[tuple[Figure, Sequence[Sequence[Axes]]]]:
    """As `axes`, with a grid of them, to be found by row and column: rows of these relative
    heights. Those of a column share their x, those of a row their y."""
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ModuleNotFoundError as missing:
        if (missing.name or "").partition(".")[0] != "matplotlib":
            raise
        raise HaloError(
            "plots need matplotlib; install it with pip install 'halo-edge[bench]'"
        ) from None
    with matplotlib.rc_context(_STYLE):  # type: ignore[arg-type]
        width, height = SIZE_INCHES
        more = len(heights) > 1
        figure = Figure(figsize=(width, height * (1.5 if more else 1)), layout="constrained")
        grid = figure.subplots(
            len(heights),
            columns,
            sharex="col",
            sharey="row",
            squeeze=False,
            height_ratios=heights,
        )
        yield figure, grid.tolist()


def draw_series(plot: Axes, index: int, label: str, points: Sequence[Point]) -> None:
    """A line through medians, with their intervals as error bars. `index` is the series' colour
    and marker."""
    colour, marker = COLOURS[index % len(COLOURS)], MARKERS[index % len(MARKERS)]
    x, y = [p.x for p in points], [p.y for p in points]
    plot.plot(x, y, color=colour, marker=marker, label=label)
    for point in points:
        found = point.interval
        if found is not None and found.high is not None and not point.at_least:
            below, above = max(0.0, point.y - found.low), max(0.0, found.high - point.y)
            plot.errorbar(point.x, point.y, [[below], [above]], color=colour, fmt="none")
    stopped = [p for p in points if p.at_least]
    if stopped:  # an arrow upwards: longer than that, nobody waited for how long
        plot.errorbar(
            [p.x for p in stopped],
            [p.y for p in stopped],
            [0.15 * p.y for p in stopped],
            lolims=True,
            color=colour,
            fmt="none",
        )


def ticks(plot: Axes, x: Sequence[float] | None = None, y: Sequence[float] | None = None) -> None:
    """Marks at these values and nowhere else, written as plain numbers (log scales too)."""
    from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator

    for axis, values in ((plot.xaxis, x), (plot.yaxis, y)):
        if values is not None:
            axis.set_major_locator(FixedLocator(values))
            axis.set_minor_locator(NullLocator())
            axis.set_major_formatter(FixedFormatter([f"{value:,g}" for value in values]))


def to_svg(figure: Figure) -> str:
    """The same figure always gives the same text."""
    import matplotlib

    out = io.StringIO()
    with matplotlib.rc_context(_STYLE):  # type: ignore[arg-type]
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines()) + "\n"

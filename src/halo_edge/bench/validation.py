"""The simulator against the lab: TPOT of the same descriptions, virtual time against real packets.

This machine's profile is measured first; of a lab, the simulator is told only the description.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING, Final

from halo_edge.bench import markdown
from halo_edge.bench.cores import last_core
from halo_edge.bench.decoding import PROMPT
from halo_edge.bench.experiment import Experiment, Settings, Size, Tell, by_itself
from halo_edge.bench.lab_cluster import lab_spec, open_lab_cluster
from halo_edge.bench.markdown import Column
from halo_edge.bench.median import Interval, Reading, median_of
from halo_edge.bench.plot import COLOURS, axes
from halo_edge.errors import HaloError
from halo_edge.lab.host_profile import measure_host_profile
from halo_edge.lab.link import Burst, LinkSettings
from halo_edge.lab.shapes import read_shape
from halo_edge.lab.simulator import Work, simulate
from halo_edge.lab.spec import LabSpec
from halo_edge.plan.device_profile import HOST

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Case:
    """`speed`: each device's CPU quota; None: all devices share one core."""

    name: str
    devices: int
    link: LinkSettings
    speed: float | None = None

    @property
    def spec(self) -> LabSpec:
        cores = (last_core(),) if self.speed is None else ()
        return lab_spec(
            "bench-validation", self.devices, link=self.link, speed=self.speed, cores=cores
        )


CASES: Final = (
    Case("4 on one core, RTT 2 ms", 4, LinkSettings(delay_ms=1)),
    Case("the same, 5 % loss", 4, LinkSettings(delay_ms=1, loss=0.05)),
    Case("the same, 10 % loss", 4, LinkSettings(delay_ms=1, loss=0.1)),
    Case("the same, bursts", 4, LinkSettings(delay_ms=1, burst=Burst(380, 20))),
    Case("4 on one core, 20 Mbit/s", 4, LinkSettings(delay_ms=1, rate_mbit=20)),
    Case("2 of 0.4 cores, RTT 1 ms", 2, LinkSettings(delay_ms=0.5), 0.4),
    Case("4 of 0.4 cores, RTT 1 ms", 4, LinkSettings(delay_ms=0.5), 0.4),
    Case("4 of 0.2 cores, 5 % loss", 4, LinkSettings(delay_ms=0.5, loss=0.05), 0.2),
)


@dataclass(frozen=True)
class Sample:
    lab: Reading
    simulated_ms: float

    def __str__(self) -> str:
        return f"{self.lab.value:.1f} ms a token in the lab, {self.simulated_ms:.1f} simulated"


@dataclass(frozen=True)
class Row:
    """`error`: of the simulated TPOT, as a share of the lab's."""

    name: str
    devices: int
    speed: float | None
    tpot_ms: float | None
    at_least_ms: float | None
    interval_ms: Interval | None
    simulated_ms: float
    error: float | None
    repetitions: int


def _measured(settings: Settings, case: Case, tell: Tell) -> tuple[Sample, list[str]]:
    """The profile is measured each time: the machine's speed drifts within minutes."""
    model, size = str(settings.model), settings.size
    profile = measure_host_profile(model)
    with open_lab_cluster(case.spec, settings.model, tell) as cluster:
        lab, warnings = cluster.measure(None, size.tokens, size.limit_s), cluster.warnings()
    work = Work(read_shape(model), prompt=len(PROMPT), tokens=size.tokens)
    found = simulate(case.spec, work, {HOST: profile})
    if found.ended is not None:
        raise HaloError(f"the simulation of {case.name!r} ended: {found.ended}")
    return Sample(lab.decoding.tpot, fmean(found.tokens_s) * 1e3), warnings


def _rows(taken: Mapping[Case, Sequence[Sample]]) -> list[Row]:
    rows = []
    for case, samples in taken.items():
        middle = median_of([sample.lab for sample in samples])
        simulated_ms = median_of([Reading(sample.simulated_ms) for sample in samples]).value
        assert simulated_ms is not None
        rows.append(
            Row(
                name=case.name,
                devices=case.devices,
                speed=case.speed,
                tpot_ms=middle.value,
                at_least_ms=middle.at_least,
                interval_ms=middle.interval,
                simulated_ms=simulated_ms,
                error=None if middle.value is None else simulated_ms / middle.value - 1,
                repetitions=middle.repetitions,
            )
        )
    return rows


def _table(rows: Sequence[Row]) -> str:
    columns = (
        Column[Row]("lab", lambda row: row.name, left=True),
        Column[Row]("TPOT, ms", lambda row: markdown.median(row.tpot_ms, row.at_least_ms)),
        Column[Row]("interval", lambda row: markdown.interval(row.interval_ms)),
        Column[Row]("simulated, ms", lambda row: markdown.number(row.simulated_ms)),
        Column[Row]("error", _error),
    )
    return markdown.table(columns, rows)


def _error(row: Row) -> str:
    return markdown.NOTHING if row.error is None else f"{row.error * 100:+.0f} %"


def _plot(rows: Sequence[Row]) -> Figure:
    known = [row for row in rows if row.tpot_ms is not None]
    with axes("TPOT in the lab, ms", "simulated, ms") as (figure, plot):
        longest = max([row.simulated_ms for row in rows] + [row.tpot_ms or 0 for row in known])
        ends = [0.0, 1.1 * longest]
        plot.plot(ends, ends, color="black", linewidth=0.8)
        plot.fill_between(
            ends, [0.85 * e for e in ends], [1.15 * e for e in ends], color="#eeeeee", label="15 %"
        )
        plot.plot(
            [row.tpot_ms or 0.0 for row in known],
            [row.simulated_ms for row in known],
            color=COLOURS[0],
            marker="o",
            linestyle="none",
        )
        plot.legend(frameon=False)
    return figure


VALIDATION: Final = Experiment(
    name="validation",
    about="The simulator's TPOT against the lab's (Linux, root).",
    row=Row,
    model="tinyllama-1.1b",
    full=Size(repetitions=3, tokens=24, limit_s=60),
    quick=Size(repetitions=1, tokens=12, limit_s=30),
    cases=lambda settings: CASES[::2] if settings.quick else CASES,
    open=by_itself(_measured),
    rows=_rows,
    table=_table,
    plot=_plot,
    in_lab=True,
)

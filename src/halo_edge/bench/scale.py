"""TPOT of 1 to 64 Raspberry Pis in the simulator, with the scheduler's plans: beside what these
predict, what no plan can beat, equal shares, and the time that the scheduler takes.

A device that the plan leaves out is not there in the simulation: it takes no part in rounds.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import cycle
from statistics import fmean
from typing import TYPE_CHECKING, Final

from halo_edge.bench import markdown
from halo_edge.bench.decoding import PROMPT
from halo_edge.bench.experiment import Experiment, Opened, Settings, Size, Tell
from halo_edge.bench.lab_cluster import lab_spec
from halo_edge.bench.markdown import Column
from halo_edge.bench.median import Interval, Reading, median_of
from halo_edge.bench.plot import COLOURS, MARKERS, panels, ticks
from halo_edge.errors import HaloError
from halo_edge.lab.link import LinkSettings
from halo_edge.lab.planned import planned
from halo_edge.lab.profiles import load_profile
from halo_edge.lab.shapes import read_shape
from halo_edge.lab.simulator import WARM_TOKENS, Work, simulate
from halo_edge.lab.spec import LabSpec
from halo_edge.plan.bound import bound_s
from halo_edge.plan.plan import Plan, split
from halo_edge.plan.schedule import schedule
from halo_edge.plan.workload import MAX_COPIES, Workload

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DEVICES: Final = (1, 2, 4, 8, 16, 32, 64)
# Of each worker's link, each way: an RTT of 1 ms, as on a good wireless network.
DELAY_MS: Final = 0.5
RATE_MBIT: Final = 100.0
LOSS: Final = 0.05
# In which the protocol finds out how much is lost.
SETTLE: Final = 4


@dataclass(frozen=True)
class Kind:
    """`profiles`: of the devices, the root's first, in turn."""

    name: str
    profiles: tuple[str, ...]

    def spec(self, devices: int, loss: float, seed: int) -> LabSpec:
        link = LinkSettings(delay_ms=DELAY_MS, rate_mbit=RATE_MBIT, loss=loss)
        made = lab_spec("bench-scale", devices, link=link)
        profiles = zip(made.devices, cycle(self.profiles), strict=False)
        return replace(
            made, seed=seed, devices=tuple(replace(each, profile=name) for each, name in profiles)
        )


KINDS: Final = (
    Kind("all Pi 4", ("pi4",)),
    Kind("Pi 5, 4, 3 in turn", ("pi5", "pi4", "pi3")),
)


@dataclass(frozen=True)
class Case:
    kind: Kind
    loss: float
    devices: int

    @property
    def name(self) -> str:
        return f"{self.devices} devices, {self.kind.name}, {markdown.percent(self.loss)} loss"


@dataclass(frozen=True)
class Sample:
    """`used`: devices with a share. `plan_s`: the scheduler's time."""

    used: int
    tpot_ms: float
    equal_ms: float
    predicted_ms: float
    bound_ms: float
    plan_s: float

    def __str__(self) -> str:
        return (
            f"{self.tpot_ms:.1f} ms a token with {self.used} of them (predicted "
            f"{self.predicted_ms:.1f}, bound {self.bound_ms:.1f}, equal shares "
            f"{self.equal_ms:.1f}); planned in {self.plan_s:.2f} s"
        )


@dataclass(frozen=True)
class Row:
    """`tpot_ms`, `equal_ms`: simulated, medians over the links' seeds. `plan_s`: the longest that
    the scheduler took."""

    kind: str
    loss: float
    devices: int
    used: int
    tpot_ms: float
    interval_ms: Interval | None
    predicted_ms: float
    bound_ms: float
    equal_ms: float
    plan_s: float
    repetitions: int


def _cases(settings: Settings) -> list[Case]:
    devices = DEVICES[::3] if settings.quick else DEVICES
    return [Case(kind, loss, n) for kind in KINDS for loss in (0.0, LOSS) for n in devices]


@contextmanager
def _opened(
    settings: Settings, cases: Sequence[Case], tell: Tell
) -> Iterator[Opened[Case, Sample]]:
    shape, tokens = read_shape(str(settings.model)), SETTLE + settings.size.tokens
    profiles = {name: load_profile(name) for kind in KINDS for name in kind.profiles}
    workload = Workload(shape, prompt=len(PROMPT), answer=2 * WARM_TOKENS + tokens)
    work = Work(shape, prompt=len(PROMPT), tokens=tokens, max_copies=MAX_COPIES)
    n_groups, seeds = shape.partition.n_groups, Counter[Case]()

    def simulated_ms(spec: LabSpec, plan: Plan) -> float:
        used = [0, *plan.workers]
        taking_part = replace(spec, devices=tuple(spec.devices[d] for d in used))
        found = simulate(taking_part, work, profiles, plan=plan.of_places(used))
        if found.ended is not None:
            raise HaloError(f"the simulation of {len(used)} devices ended: {found.ended}")
        return 1e3 * fmean(found.tokens_s[SETTLE:])

    def measure(case: Case) -> Sample:
        """Each time with another seed."""
        seeds[case] += 1
        spec = case.kind.spec(case.devices, case.loss, seeds[case])
        cluster = planned(spec, profiles)
        begun = time.perf_counter()
        found = schedule(cluster, workload)
        plan_s = time.perf_counter() - begun
        return Sample(
            used=1 + len(found.plan.workers),
            tpot_ms=simulated_ms(spec, found.plan),
            equal_ms=simulated_ms(spec, split(n_groups, [1.0] * case.devices)),
            predicted_ms=1e3 * found.prediction.tpot_s,
            bound_ms=1e3 * bound_s(cluster, workload),
            plan_s=plan_s,
        )

    # What the scheduler needs is loaded by then.
    schedule(planned(KINDS[0].spec(2, 0.0, 0), profiles), workload)
    yield Opened(measure)


def _rows(taken: Mapping[Case, Sequence[Sample]]) -> list[Row]:
    rows = []
    for case, samples in taken.items():
        simulated = median_of([Reading(sample.tpot_ms) for sample in samples])
        equal = median_of([Reading(sample.equal_ms) for sample in samples])
        assert simulated.value is not None and equal.value is not None  # nothing is cut short
        rows.append(
            Row(
                kind=case.kind.name,
                loss=case.loss,
                devices=case.devices,
                used=samples[0].used,
                tpot_ms=simulated.value,
                interval_ms=simulated.interval,
                predicted_ms=samples[0].predicted_ms,
                bound_ms=samples[0].bound_ms,
                equal_ms=equal.value,
                plan_s=max(sample.plan_s for sample in samples),
                repetitions=simulated.repetitions,
            )
        )
    return rows


def _table(rows: Sequence[Row]) -> str:
    columns = (
        Column[Row]("cluster", lambda row: row.kind, left=True),
        Column[Row]("loss", lambda row: markdown.percent(row.loss)),
        Column[Row]("devices", lambda row: str(row.devices)),
        Column[Row]("used", lambda row: str(row.used)),
        Column[Row]("TPOT, ms", lambda row: markdown.number(row.tpot_ms)),
        Column[Row]("interval", lambda row: markdown.interval(row.interval_ms)),
        Column[Row]("predicted, ms", lambda row: markdown.number(row.predicted_ms)),
        Column[Row]("off by", lambda row: f"{row.predicted_ms / row.tpot_ms - 1:+.0%}"),
        Column[Row]("bound, ms", lambda row: markdown.number(row.bound_ms)),
        Column[Row]("of the bound", lambda row: markdown.ratio(row.tpot_ms / row.bound_ms)),
        Column[Row]("equal shares, ms", lambda row: markdown.number(row.equal_ms)),
        Column[Row]("scheduled in, s", lambda row: f"{row.plan_s:.2f}"),
    )
    return markdown.table(columns, rows)


def _plot(rows: Sequence[Row]) -> Figure:
    """Above the times, below it how many devices are used; a column for each kind of cluster."""
    kinds = list(dict.fromkeys(row.kind for row in rows))
    with panels([3, 1], len(kinds)) as (figure, plots):
        for i, kind in enumerate(kinds):
            times, counts = plots[0][i], plots[1][i]
            losses = dict.fromkeys(row.loss for row in rows)
            for colour, marker, loss in zip(COLOURS, MARKERS, losses, strict=False):
                ours = [row for row in rows if (row.kind, row.loss) == (kind, loss)]
                x, words = [row.devices for row in ours], f"{markdown.percent(loss)} loss"
                times.plot(x, [row.tpot_ms for row in ours], c=colour, marker=marker, label=words)
                equal = [row.equal_ms for row in ours]
                times.plot(x, equal, c=colour, linestyle="--", label=f"{words}, equal shares")
                counts.plot(x, [row.used for row in ours], c=colour, marker=marker)
                predicted = [row.predicted_ms for row in ours]
                (crosses,) = times.plot(x, predicted, "x", c="black")
            (bound,) = times.plot(x, [row.bound_ms for row in ours], ":", c="black")
            counts.plot(x, x, ":", c="black", linewidth=1)
            for plot in (times, counts):
                plot.set_xscale("log", base=2)
                plot.set_yscale("log")
            times.set_title(kind)
            counts.set_xlabel("devices")
            ticks(times, [], [10, 20, 50, 100, 200, 500, 1000, 2000])
            ticks(counts, sorted({row.devices for row in rows}), [1, 8, 64])
        plots[0][0].set_ylabel("TPOT, ms")
        plots[1][0].set_ylabel("used")
        crosses.set_label("predicted")
        bound.set_label("bound")
        handles, labels = plots[0][-1].get_legend_handles_labels()
        figure.legend(
            handles,
            labels,
            loc="outside lower center",
            ncols=2,
            frameon=False,
        )
    return figure


SCALE: Final = Experiment(
    name="scale",
    about="1 to 64 Raspberry Pis in the simulator, with the plans of the scheduler.",
    row=Row,
    model="tinyllama-1.1b",
    full=Size(repetitions=2, tokens=8, limit_s=60),
    quick=Size(repetitions=1, tokens=4, limit_s=60),
    cases=_cases,
    open=_opened,
    rows=_rows,
    table=_table,
    plot=_plot,
)

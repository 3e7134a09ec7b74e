"""Devices that are not alike: the scheduler's shares against equal ones, and against its own word.

Each cluster is built for each measurement, so that no other's processes are there meanwhile. The
scheduler begins with what the devices' benchmarks say; the first tokens, which do not count, tell
it the rest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from halo_edge.bench import markdown
from halo_edge.bench.experiment import Experiment, Settings, Size, Tell, by_itself
from halo_edge.bench.lab_cluster import LabSample, lab_spec, open_lab_cluster
from halo_edge.bench.markdown import Column
from halo_edge.bench.median import Interval, Reading, median_of
from halo_edge.bench.plot import COLOURS, axes
from halo_edge.lab.link import LinkSettings
from halo_edge.lab.spec import LabSpec

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DELAY_MS: Final = 0.5
# In which the plan is carried out, and made again once rounds have said how fast the devices are.
SETTLE: Final = 110


@dataclass(frozen=True)
class Kind:
    """`speeds`: CPU quotas, in cores, the root's first; of all workers' links, each way, `delay_ms`
    and `rate_mbit`; `losses`: of single ones, by the worker's place."""

    name: str
    speeds: tuple[float | None, ...]
    delay_ms: float = DELAY_MS
    rate_mbit: float | None = None
    losses: tuple[tuple[int, float], ...] = ()
    cores: tuple[int, ...] = ()

    def spec(self) -> LabSpec:
        link = LinkSettings(delay_ms=self.delay_ms, rate_mbit=self.rate_mbit)
        made = lab_spec("bench-unequal", len(self.speeds), link=link, cores=self.cores)
        losses = dict(self.losses)
        devices = []
        for i, (device, speed) in enumerate(zip(made.devices, self.speeds, strict=True)):
            lossy = replace(link, loss=losses[i]) if i in losses else link
            if i:
                device = replace(device, up=lossy, down=lossy)
            devices.append(replace(device, speed=speed))
        return replace(made, devices=tuple(devices))


KINDS: Final = (
    Kind("speeds 1, 1, 1/2, 1/4 of half a core", (0.5, 0.5, 0.25, 0.125)),
    Kind("4 of 0.4 cores", (0.4,) * 4),
    Kind("2 of 0.6 cores", (0.6, 0.6)),
    Kind("4 of 0.4 cores, RTT 8 ms", (0.4,) * 4, delay_ms=4.0),
    Kind("4 of 0.4 cores, one loses 15 %", (0.4,) * 4, losses=((1, 0.15),)),
    Kind("slow root: 0.3, 0.6, 0.6", (0.3, 0.6, 0.6)),
    Kind("4 of 0.4 cores, 20 Mbit/s", (0.4,) * 4, rate_mbit=20.0),
)


@dataclass(frozen=True)
class Case:
    kind: Kind
    scheduled: bool

    @property
    def name(self) -> str:
        return f"{self.kind.name}, {'scheduled' if self.scheduled else 'equal'}"


@dataclass(frozen=True)
class Row:
    """`shares`: of the neuron groups, by device, at the end of the first repetition.
    `predicted_ms`, `bound_ms`: medians of what the scheduler said at the end: of the plan in use,
    and of what no plan can beat. `factor`: how much faster than equal shares."""

    cluster: str
    scheduled: bool
    tpot_ms: float | None
    at_least_ms: float | None
    interval_ms: Interval | None
    shares: list[int]
    predicted_ms: float | None
    bound_ms: float | None
    factor: float | None
    repetitions: int


def _cases(settings: Settings) -> list[Case]:
    kinds = KINDS[:1] if settings.quick else KINDS
    return [Case(kind, scheduled) for kind in kinds for scheduled in (False, True)]


def _measured(settings: Settings, case: Case, tell: Tell) -> tuple[LabSample, list[str]]:
    size = settings.size
    with open_lab_cluster(
        case.kind.spec(), settings.model, tell, scheduled=case.scheduled
    ) as cluster:
        return cluster.measure(None, size.tokens, size.limit_s, SETTLE), cluster.warnings()


def _rows(taken: Mapping[Case, Sequence[LabSample]]) -> list[Row]:
    medians = {
        case: median_of([sample.decoding.tpot for sample in samples])
        for case, samples in taken.items()
    }
    rows = []
    for case, samples in taken.items():
        middle, equal = medians[case], medians.get(Case(case.kind, scheduled=False))
        outlooks = [sample.outlook for sample in samples if sample.outlook is not None]
        predicted = bound = None
        if outlooks:
            predicted = median_of([Reading(1e3 * each.tpot_s) for each in outlooks]).value
            bound = median_of([Reading(1e3 * each.bound_s) for each in outlooks]).value
        rows.append(
            Row(
                cluster=case.kind.name,
                scheduled=case.scheduled,
                tpot_ms=middle.value,
                at_least_ms=middle.at_least,
                interval_ms=middle.interval,
                shares=list(samples[0].shares),
                predicted_ms=predicted,
                bound_ms=bound,
                factor=(
                    equal.value / middle.value
                    if equal is not None and equal.value and middle.value
                    else None
                ),
                repetitions=middle.repetitions,
            )
        )
    return rows


def _table(rows: Sequence[Row]) -> str:
    columns = (
        Column[Row]("cluster", lambda row: row.cluster, left=True),
        Column[Row]("shares", lambda row: "scheduled" if row.scheduled else "equal", left=True),
        Column[Row]("neuron groups", lambda row: ", ".join(map(str, row.shares)), left=True),
        Column[Row]("TPOT, ms", lambda row: markdown.median(row.tpot_ms, row.at_least_ms)),
        Column[Row]("interval", lambda row: markdown.interval(row.interval_ms)),
        Column[Row]("faster than equal", lambda row: markdown.ratio(row.factor)),
        Column[Row]("predicted, ms", lambda row: markdown.number(row.predicted_ms)),
        Column[Row]("off by", _off),
        Column[Row]("bound, ms", lambda row: markdown.number(row.bound_ms)),
        Column[Row]("of the bound", lambda row: markdown.ratio(_of_bound(row))),
    )
    return markdown.table(columns, rows)


def _off(row: Row) -> str:
    if row.predicted_ms is None or not row.tpot_ms:
        return markdown.NOTHING
    return f"{row.predicted_ms / row.tpot_ms - 1:+.0%}"


def _of_bound(row: Row) -> float | None:
    return row.tpot_ms / row.bound_ms if row.bound_ms and row.tpot_ms else None


def _plot(rows: Sequence[Row]) -> Figure:
    with axes("TPOT, ms", "") as (figure, plot):
        kinds = list(dict.fromkeys(row.cluster for row in rows))
        for i, scheduled in enumerate((False, True)):
            ours = [row for row in rows if row.scheduled is scheduled and row.tpot_ms is not None]
            plot.barh(
                [kinds.index(row.cluster) + 0.4 * i for row in ours],
                [row.tpot_ms or 0.0 for row in ours],
                height=0.38,
                color=COLOURS[i],
                label="scheduled" if scheduled else "equal shares",
            )
        bounds = [(row.bound_ms, row.cluster) for row in rows if row.bound_ms is not None]
        plot.plot(
            [bound_ms for bound_ms, _ in bounds],
            [kinds.index(cluster) + 0.4 for _, cluster in bounds],
            "k|",
            markersize=14,
            label="bound",
        )
        plot.set_yticks([i + 0.2 for i in range(len(kinds))], kinds)
        plot.invert_yaxis()
        plot.legend(frameon=False)
    return figure


UNEQUAL: Final = Experiment(
    name="unequal",
    about="Devices that are not alike: the scheduler's shares and predictions (Linux, root).",
    row=Row,
    model="tinyllama-1.1b",
    full=Size(repetitions=3, tokens=40, limit_s=120),
    quick=Size(repetitions=1, tokens=24, limit_s=60),
    cases=_cases,
    open=by_itself(_measured),
    rows=_rows,
    table=_table,
    plot=_plot,
    in_lab=True,
)

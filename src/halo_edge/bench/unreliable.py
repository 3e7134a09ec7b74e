"""One device on a bad link: what the scheduler makes of it, in time and in quality.

Four devices: the root has too little memory to do without the workers, and any two of these too
little for all neurons. So the lossy one takes part, and the question is with which groups, how
often chunks travel, and what that costs. Nobody is told of the loss.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil
from pathlib import Path
from typing import Final

from halo_edge.bench import markdown
from halo_edge.bench.compared import DECODE_STEP, QUICK_WINDOW, WINDOW, Comparer, Comparison
from halo_edge.bench.compared import Sample as Compared
from halo_edge.bench.compared_columns import compared_columns
from halo_edge.bench.decoding import CONTEXT
from halo_edge.bench.experiment import Experiment, Settings, Size, Tell, by_itself
from halo_edge.bench.lab_cluster import LabSample, lab_spec, open_lab_cluster
from halo_edge.bench.markdown import Column
from halo_edge.bench.median import Interval, median_of
from halo_edge.bench.policies import BALANCED, DEVICES, check_profile
from halo_edge.cluster.worker_memory import MEMORY_SHARE
from halo_edge.groups.profile import Profile
from halo_edge.lab.link import LinkSettings
from halo_edge.lab.shapes import read_shape
from halo_edge.lab.spec import LabSpec
from halo_edge.plan.memory import bytes_at_root, bytes_for
from halo_edge.plan.model_shape import ModelShape
from halo_edge.plan.workload import Workload

DELAY_MS: Final = 0.5
SPEED: Final = 0.4
LOSS: Final = 0.15
LOSSY: Final = 1
# Decoded before what counts: the loss is found out, and a plan made and carried out for it.
SETTLE: Final = 150
# Of all groups, what each worker has memory for.
WORKER_SHARE: Final = 0.4
# The root scores a text, too, which no root does that serves; what it is planned to use is without
# that: a base's logits, and the pages of the file they are kept in.
SCORING_BYTES: Final = 64 << 20
# A worn memory card: too slow to read weights from for every token.
STORAGE_BYTES_PER_S: Final = 10e6


@dataclass(frozen=True)
class Case:
    """`loss`: each way, of one worker's link."""

    loss: float
    scheduled: bool

    @property
    def name(self) -> str:
        shares = "scheduled" if self.scheduled else "equal"
        return f"{_network(self.loss)}, {shares}"

    def spec(self, shape: ModelShape, root_bytes: int) -> LabSpec:
        """`root_bytes`: that the root has."""
        link = LinkSettings(delay_ms=DELAY_MS)
        made = lab_spec("bench-unreliable", DEVICES, link=link, speed=SPEED)
        lossy = replace(link, loss=self.loss)
        n_groups = shape.partition.n_groups
        at_worker = bytes_for(ceil(WORKER_SHARE * n_groups), shape) / MEMORY_SHARE
        root, *workers = (
            replace(device, memory_bytes=ceil(at_worker), storage_bytes_per_s=STORAGE_BYTES_PER_S)
            for device in made.devices
        )
        workers[LOSSY - 1] = replace(workers[LOSSY - 1], up=lossy, down=lossy)
        return replace(made, devices=(replace(root, memory_bytes=root_bytes), *workers))


def _root_bytes(shape: ModelShape, profile: Profile) -> tuple[int, int]:
    """What a root is planned to use that cannot hold all groups, even if it has no workers; and
    what it uses with all of them, an equal share, and a text to score."""
    n_groups, workload = shape.partition.n_groups, Workload(shape, cells=CONTEXT, rank=profile.rank)
    planned = bytes_at_root(n_groups - 1, workload)
    used = bytes_at_root(ceil(n_groups / DEVICES), workload, DEVICES - 1)
    return ceil(planned), ceil(max(planned, used)) + SCORING_BYTES


def _network(loss: float) -> str:
    return f"one loses {markdown.percent(loss)}" if loss else "clean"


@dataclass(frozen=True)
class Sample:
    decoded: LabSample
    compared: Compared

    def __str__(self) -> str:
        return f"{self.decoded}, {self.compared}"


@dataclass(frozen=True)
class Row:
    """`groups`: of each device, [first, last + 1), in the order of importance, at the end of the
    first repetition. `against_clean`: of TPOT, to the same shares without loss. `compared`: with a
    strict run of the same session."""

    network: str
    scheduled: bool
    groups: list[list[int]]
    tpot_ms: float | None
    interval_ms: Interval | None
    against_clean: float | None
    compared: Comparison
    repetitions: int


def unreliable(text: Path) -> Experiment[Case, Sample, Row]:
    """Scores the text in a file. Of `Size`, `tokens`: decoded for TPOT."""

    def measured(settings: Settings, case: Case, tell: Tell) -> tuple[Sample, list[str]]:
        check_profile(settings, [BALANCED.relax])
        assert settings.profile is not None
        shape = read_shape(str(settings.model))
        planned, root_bytes = _root_bytes(shape, Profile.load(settings.profile))
        with open_lab_cluster(
            case.spec(shape, root_bytes),
            settings.model,
            tell,
            scheduled=case.scheduled,
            memory_bytes=planned,
            profile=settings.profile,
        ) as cluster:
            size = settings.size
            cluster.relax(BALANCED.relax)
            decoded = cluster.measure(None, size.tokens, size.limit_s, SETTLE)
            window = QUICK_WINDOW if settings.quick else WINDOW
            comparer = Comparer(cluster, text, window, windows=1, clean=None)
            compared = comparer.compare(case, BALANCED.relax, None, DECODE_STEP)
            return Sample(decoded, compared), cluster.warnings()

    return Experiment(
        name="unreliable",
        row=Row,
        model=None,
        full=Size(repetitions=3, tokens=60, limit_s=240),
        quick=Size(repetitions=1, tokens=24, limit_s=120),
        cases=_cases,
        open=by_itself(measured),
        rows=_rows,
        table=_table,
        plot=None,
        options={"text": text.name},
        in_lab=True,
        uses_profile=True,
    )


def _cases(settings: Settings) -> list[Case]:
    kinds = (True,) if settings.quick else (False, True)
    return [Case(loss, scheduled) for loss in (0.0, LOSS) for scheduled in kinds]


def _rows(taken: Mapping[Case, Sequence[Sample]]) -> list[Row]:
    medians = {
        case: median_of([sample.decoded.decoding.tpot for sample in samples])
        for case, samples in taken.items()
    }
    rows = []
    for case, samples in taken.items():
        middle, clean = medians[case], medians.get(Case(0.0, case.scheduled))
        clean_ms = clean.value if clean is not None else None
        rows.append(
            Row(
                network=_network(case.loss),
                scheduled=case.scheduled,
                groups=_ranges(samples[0].decoded),
                tpot_ms=middle.value,
                interval_ms=middle.interval,
                against_clean=middle.value / clean_ms if clean_ms and middle.value else None,
                compared=Comparison.of([sample.compared for sample in samples]),
                repetitions=middle.repetitions,
            )
        )
    return rows


def _ranges(sample: LabSample) -> list[list[int]]:
    return [
        [begin, begin + groups] for begin, groups in zip(sample.begins, sample.shares, strict=True)
    ]


def _table(rows: Sequence[Row]) -> str:
    columns = (
        Column[Row]("link of the first worker", lambda row: row.network, left=True),
        Column[Row]("shares", lambda row: "scheduled" if row.scheduled else "equal", left=True),
        Column[Row]("groups of root; workers", _groups, left=True),
        Column[Row]("TPOT, ms", lambda row: markdown.number(row.tpot_ms)),
        Column[Row]("interval", lambda row: markdown.interval(row.interval_ms)),
        Column[Row]("against clean", lambda row: markdown.ratio(row.against_clean)),
        *compared_columns(lambda row: row.compared, times=False),
    )
    return markdown.table(columns, rows)


def _groups(row: Row) -> str:
    """0 is the most important."""
    parts = [f"{first} to {stop - 1}" if stop > first else "-" for first, stop in row.groups]
    return "; ".join((parts[0], ", ".join(parts[1:])))

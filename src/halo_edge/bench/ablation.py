"""What each part brings at 10 % loss: quality and time with one part at a time replaced.

The base case keeps to no budget: of the losses, those half with less at stake by prediction are
gone on without, and the others asked for again. So a part that makes the damage smaller shows in
the KL, and not in how much is gone on without. And there are losses: every chunk is sent once, and
nobody takes over. As in `relaxed`, text is scored in steps of one token by four devices on one
core, RTT 2 ms, and compared with a strict run. Placement decides which shards there are, so each
has a cluster and a strict run of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from halo_edge.bench import markdown
from halo_edge.bench.compared import QUICK_WINDOW, WINDOW, Comparer, Comparison, Sample
from halo_edge.bench.compared_columns import compared_columns
from halo_edge.bench.experiment import Experiment, Opened, Settings, Size, Tell
from halo_edge.bench.lab_cluster import Links
from halo_edge.bench.markdown import Column
from halo_edge.bench.plot import COLOURS, axes
from halo_edge.bench.policies import DELAY_MS, check_profile, open_one_core
from halo_edge.cluster.messages import Transport
from halo_edge.cluster.relaxation import BALANCED, MAX_COPIES, RelaxOptions, Waiting
from halo_edge.groups.placement import Placement
from halo_edge.groups.surrogate import Fill
from halo_edge.lab.link import LinkSettings

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LOSS: Final = 0.1
HALF_WINDOW: Final = WINDOW // 2  # fifteen cases take their time
BASE: Final = RelaxOptions(
    kl_budget=BALANCED, waiting=Waiting.PREDICTED_HALF, take_over=False, max_copies=1
)


@dataclass(frozen=True)
class Case:
    """`part` is `variant` here."""

    part: str
    variant: str
    relax: RelaxOptions = BASE
    placement: Placement = Placement.CRITICAL

    @property
    def name(self) -> str:
        return f"{self.part} {self.variant}".strip()


CASES: Final = (
    Case("base", ""),
    *(
        Case("placement", placement.value, placement=placement)
        for placement in (Placement.CONTIGUOUS, Placement.RANDOM)
    ),
    *(
        Case("waiting", waiting.value, replace(BASE, waiting=waiting))
        for waiting in Waiting
        if waiting is not BASE.waiting
    ),
    *(Case("fill", fill.value, replace(BASE, fill=fill)) for fill in Fill if fill is not BASE.fill),
    Case("learning", "off", replace(BASE, learning=False)),
    Case("recovery", "off", replace(BASE, recovery=False)),
    Case("redundancy", "on", replace(BASE, max_copies=MAX_COPIES)),
    Case("take-over", "on", replace(BASE, take_over=True)),
    Case("all", "the product", RelaxOptions(kl_budget=BALANCED)),
)


@dataclass(frozen=True)
class Row:
    part: str
    variant: str
    compared: Comparison


def _cases(settings: Settings) -> list[Case]:
    if not settings.quick:
        return list(CASES)
    return [case for case in CASES if case.part in ("base", "fill")]


def ablation(text: Path) -> Experiment[Case, Sample, Row]:
    """Scores the text in a file. Of `Size`, `tokens` is the number of windows a repetition."""

    @contextmanager
    def opened(
        settings: Settings, cases: Sequence[Case], tell: Tell
    ) -> Iterator[Opened[Case, Sample]]:
        check_profile(settings, (case.relax for case in cases))
        context = QUICK_WINDOW if settings.quick else HALF_WINDOW
        links = Links(LinkSettings(loss=LOSS, delay_ms=DELAY_MS))
        with ExitStack() as stack:
            clusters = {
                placement: stack.enter_context(
                    open_one_core(
                        f"ablation-{placement.value}", settings, Transport.UDP, tell, placement
                    )
                )
                for placement in dict.fromkeys(case.placement for case in cases)
            }
            comparers = {
                placement: Comparer(cluster, text, context, settings.size.tokens)
                for placement, cluster in clusters.items()
            }

            def measure(case: Case) -> Sample:
                return comparers[case.placement].compare(case, case.relax, links)

            yield Opened(
                measure,
                lambda: [line for cluster in clusters.values() for line in cluster.warnings()],
            )

    return Experiment(
        name="ablation",
        row=Row,
        model=None,
        full=Size(repetitions=2, tokens=2, limit_s=3600),
        quick=Size(repetitions=1, tokens=1, limit_s=600),
        cases=_cases,
        open=opened,
        rows=_rows,
        table=_table,
        plot=_plot,
        options={"text": text.name},
        in_lab=True,
        uses_profile=True,
    )


def _rows(taken: Mapping[Case, Sequence[Sample]]) -> list[Row]:
    return [Row(case.part, case.variant, Comparison.of(samples)) for case, samples in taken.items()]


def _table(rows: Sequence[Row]) -> str:
    columns = (
        Column[Row]("part", lambda row: row.part, left=True),
        Column[Row]("is", lambda row: row.variant, left=True),
        *compared_columns(lambda row: row.compared),
    )
    return markdown.table(columns, rows)


def _plot(rows: Sequence[Row]) -> Figure:
    parts = list(dict.fromkeys(row.part for row in rows))
    with axes("KL, nats a token", "") as (figure, plot):
        plot.barh(
            [f"{row.part} {row.variant}".strip() for row in rows],
            [row.compared.divergence.kl for row in rows],
            xerr=[row.compared.divergence.stderr for row in rows],
            color=[COLOURS[parts.index(row.part) % len(COLOURS)] for row in rows],
        )
        plot.invert_yaxis()
        plot.grid(axis="y", visible=False)
    return figure

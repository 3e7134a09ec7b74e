"""How much of the damage a fill repairs on text of another kind than its profile was made from.

Source code of Python, with a profile that saw none. Some 10 % of the partials never come: each
packet is lost with 5 %, each way, and nobody asks again (a partial of SmolLM2, like its x, is one
chunk). What is compared is what is put in their place.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from halo_edge.bench import markdown
from halo_edge.bench.compared import QUICK_WINDOW, WINDOW, Comparer, Comparison, Sample
from halo_edge.bench.experiment import Experiment, Opened, Settings, Size, Tell
from halo_edge.bench.lab_cluster import Links
from halo_edge.bench.markdown import Column
from halo_edge.bench.policies import DELAY_MS, open_one_core
from halo_edge.cluster.messages import Transport
from halo_edge.cluster.relaxation import RelaxOptions, Waiting
from halo_edge.groups.surrogate import Fill
from halo_edge.lab.link import LinkSettings

# Of x and, if it comes, of the partial: 9.75 % of the partials do not come.
LOSS: Final = 0.05
LEARNED_TOKENS: Final = 2048
QUICK_LEARNED_TOKENS: Final = 512
# A large module of the standard library: what comes with every Python.
SOURCE: Final = Path(argparse.__file__)


@dataclass(frozen=True)
class Case:
    """`learning`: from what comes, beginning with tokens before those that are scored."""

    name: str
    fill: Fill
    learning: bool = False

    @property
    def relax(self) -> RelaxOptions:
        return RelaxOptions(
            fill=self.fill,
            learning=self.learning,
            waiting=Waiting.NONE,
            take_over=False,
            max_copies=1,
            recovery=False,
        )


CASES: Final = (
    Case("zero", Fill.ZERO),
    Case("sketch", Fill.SKETCH),
    Case("sketch, learning", Fill.SKETCH, learning=True),
)


@dataclass(frozen=True)
class Row:
    """`repaired`: the share of zero fill's KL that this does not have."""

    name: str
    compared: Comparison
    repaired: float


def off_domain(profile: Path) -> Experiment[Case, Sample, Row]:
    """With a profile that was made without source code. Of `Size`, `tokens` is the number of
    windows a repetition."""

    @contextmanager
    def opened(
        settings: Settings, cases: Sequence[Case], tell: Tell
    ) -> Iterator[Opened[Case, Sample]]:
        context = QUICK_WINDOW if settings.quick else WINDOW
        skip = (QUICK_LEARNED_TOKENS if settings.quick else LEARNED_TOKENS) // context
        links = Links(LinkSettings(loss=LOSS, delay_ms=DELAY_MS))
        given = replace(settings, profile=profile)
        with open_one_core("off-domain", given, Transport.UDP, tell) as cluster:
            comparer = Comparer(cluster, SOURCE, context, settings.size.tokens)

            def measure(case: Case) -> Sample:
                learn = skip if case.learning else 0
                return comparer.compare(case, case.relax, links, skip=skip, learn=learn)

            yield Opened(measure, cluster.warnings)

    return Experiment(
        name="off-domain",
        row=Row,
        model=None,
        full=Size(repetitions=1, tokens=4, limit_s=3600),
        quick=Size(repetitions=1, tokens=2, limit_s=600),
        cases=lambda _: CASES,
        open=opened,
        rows=_rows,
        table=_table,
        plot=None,
        options={"profile": profile.name},
        in_lab=True,
    )


def _rows(taken: Mapping[Case, Sequence[Sample]]) -> list[Row]:
    compared = {case: Comparison.of(samples) for case, samples in taken.items()}
    zero = next(c.divergence.kl for case, c in compared.items() if case.fill is Fill.ZERO)
    return [
        Row(case.name, found, 1 - found.divergence.kl / zero) for case, found in compared.items()
    ]


def _table(rows: Sequence[Row]) -> str:
    columns = (
        Column[Row]("fill", lambda row: row.name, left=True),
        Column[Row]("perplexity", lambda row: f"{row.compared.ppl_change * 100:+.2f} %"),
        Column[Row]("KL, nats a token", _kl),
        Column[Row]("reported", lambda row: f"{row.compared.cost.nats:.4f}"),
        Column[Row]("filled a token", lambda row: markdown.number(row.compared.cost.filled)),
        Column[Row]("repaired of zero's KL", lambda row: f"{row.repaired * 100:.0f} %"),
    )
    return markdown.table(columns, rows)


def _kl(row: Row) -> str:
    found = row.compared.divergence
    return f"{found.kl:.4f} ± {found.stderr:.4f}"

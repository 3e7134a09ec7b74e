"""What losses cost in quality and time: text scored through a lossy cluster in the lab.

Four devices share one core; the RTT is 2 ms. The text is scored under each policy over each
network, in steps of one token, as decode has them, and once in steps of a prompt; all of it is
compared with the strict run over clean links, position by position. So is a control (`nudged.py`),
which lost nothing: no KL can be told from none that is not above its.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from halo_edge.bench import markdown
from halo_edge.bench.compared import (
    DECODE_STEP,
    OVERSTATED,
    PREFILL_STEP,
    QUICK_WINDOW,
    UNDERSTATED,
    UNDERSTATED_NATS,
    WINDOW,
    Comparer,
    Comparison,
    Sample,
)
from halo_edge.bench.compared_columns import compared_columns
from halo_edge.bench.experiment import Experiment, Opened, Settings, Size, Tell
from halo_edge.bench.lab_cluster import Links
from halo_edge.bench.markdown import Column
from halo_edge.bench.plot import COLOURS, MARKERS, axes
from halo_edge.bench.policies import (
    BALANCED,
    DELAY_MS,
    FAST,
    STRICT,
    Policy,
    check_profile,
    open_one_core,
)
from halo_edge.cluster.messages import Transport
from halo_edge.lab.link import Burst, LinkSettings
from halo_edge.lab.spec import Action, Event

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PERIOD_S: Final = 5.0
# Longer than any block of windows takes.
EVENTS_FOR_S: Final = 4 * 3600.0
WORKER: Final = "n1"


@dataclass(frozen=True)
class Network:
    """`loss`, `burst`: of each worker's link, each way. `events`: of every period of 5 s."""

    name: str
    loss: float = 0.0
    burst: Burst | None = None
    events: tuple[Event, ...] = ()

    def links(self) -> Links:
        settings = LinkSettings(loss=self.loss, burst=self.burst, delay_ms=DELAY_MS)
        periods = range(int(EVENTS_FOR_S / PERIOD_S)) if self.events else ()
        events = (
            replace(event, at_s=period * PERIOD_S + event.at_s)
            for period in periods
            for event in self.events
        )
        return Links(settings, tuple(events))


CLEAN: Final = Network("clean")
LOSSES: Final = tuple(Network(f"{markdown.percent(loss)} loss", loss) for loss in (0.05, 0.1, 0.2))
BURSTS: Final = Network("bursts", burst=Burst(good_ms=380, bad_ms=20))
CUTS: Final = Network(
    "a worker cut for 2 s of every 5",
    events=(Event(1.5, Action.CUT, WORKER), Event(3.5, Action.JOIN, WORKER)),
)
STOPS: Final = Network(
    "a worker stopped for 1 s of every 5",
    events=(Event(1.5, Action.STOP, WORKER), Event(2.5, Action.CONTINUE, WORKER)),
)


@dataclass(frozen=True)
class Case:
    """`nudged`: it is a control."""

    network: Network
    policy: Policy
    step_tokens: int = DECODE_STEP
    nudged: bool = False

    @property
    def name(self) -> str:
        steps = "" if self.step_tokens == DECODE_STEP else f", steps of {self.step_tokens}"
        return f"{self.network.name}, {self.described}{steps}"

    @property
    def described(self) -> str:
        return f"{self.policy.name}, but for a rounding" if self.nudged else self.policy.name


CONTROL: Final = Case(CLEAN, STRICT, nudged=True)


@dataclass(frozen=True)
class Row:
    network: str
    policy: str
    step_tokens: int
    compared: Comparison


def _cases(settings: Settings) -> list[Case]:
    ten = LOSSES[1]
    if settings.quick:
        return [CONTROL, Case(ten, BALANCED), Case(ten, FAST), Case(BURSTS, BALANCED)]
    return [
        CONTROL,
        Case(CLEAN, BALANCED),
        *(Case(network, BALANCED) for network in (*LOSSES, BURSTS, CUTS, STOPS)),
        *(Case(ten, policy) for policy in (STRICT, FAST)),
        Case(ten, BALANCED, PREFILL_STEP),
    ]


def relaxed(text: Path) -> Experiment[Case, Sample, Row]:
    """Scores the text in a file. Of `Size`, `tokens` is the number of windows a repetition, each of
    which scores the next ones."""

    @contextmanager
    def opened(
        settings: Settings, cases: Sequence[Case], tell: Tell
    ) -> Iterator[Opened[Case, Sample]]:
        check_profile(settings, (case.policy.relax for case in cases))
        context = QUICK_WINDOW if settings.quick else WINDOW
        with open_one_core("relaxed", settings, Transport.UDP, tell) as cluster:
            comparer = Comparer(cluster, text, context, settings.size.tokens)

            def measure(case: Case) -> Sample:
                return comparer.compare(
                    case,
                    case.policy.relax,
                    case.network.links(),
                    case.step_tokens,
                    nudged=case.nudged,
                )

            yield Opened(measure, cluster.warnings)

    return Experiment(
        name="relaxed",
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
    return [
        Row(
            network=case.network.name,
            policy=case.described,
            step_tokens=case.step_tokens,
            compared=Comparison.of(samples),
        )
        for case, samples in taken.items()
    ]


def _table(rows: Sequence[Row]) -> str:
    columns = (
        Column[Row]("network", lambda row: row.network, left=True),
        Column[Row]("policy", lambda row: row.policy, left=True),
        Column[Row]("tokens a step", lambda row: str(row.step_tokens)),
        *compared_columns(lambda row: row.compared),
    )
    return markdown.table(columns, rows)


def _plot(rows: Sequence[Row]) -> Figure:
    """What was reported against what was measured: between the lines it is honest. A KL at the
    control's is none."""
    lost = [row for row in rows if row.compared.cost.nats > 0]
    with axes("reported, nats a token", "measured KL, nats a token") as (figure, plot):
        ends = np.geomspace(1e-4, max([0.1] + [2 * row.compared.cost.nats for row in lost]))
        upper = UNDERSTATED * ends + UNDERSTATED_NATS
        plot.fill_between(ends, ends / OVERSTATED, upper, color="#eeeeee", label="honest")
        for control in (row.compared for row in rows if row.policy == CONTROL.described):
            plot.axhline(control.divergence.kl, color="#888888", linestyle=":", label="control")
        for i, policy in enumerate(dict.fromkeys(row.policy for row in lost)):
            found = [row.compared for row in lost if row.policy == policy]
            plot.errorbar(
                [c.cost.nats for c in found],
                [c.divergence.kl for c in found],
                [c.divergence.stderr for c in found],
                color=COLOURS[i % len(COLOURS)],
                marker=MARKERS[i % len(MARKERS)],
                linestyle="none",
                label=policy,
            )
        plot.set_xscale("log")
        plot.set_yscale("log")
        plot.legend(frameon=False)
    return figure

"""Tokens/s of a prompt: one process against four, all on one core, by prompt length and chunk.

As with `overhead`, one core computes for all: what four processes take longer is what their rounds
cost when a step carries many tokens.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from halo_edge.bench import markdown
from halo_edge.bench.cores import one_core
from halo_edge.bench.experiment import Experiment, Opened, Settings, Size, Tell
from halo_edge.bench.markdown import Column
from halo_edge.bench.median import Interval, Reading, median_of
from halo_edge.bench.plot import Point, axes, draw_series
from halo_edge.cluster.messages import Transport
from halo_edge.cluster.root import RoundsOptions
from halo_edge.cluster.session import Session, SessionOptions, open_session
from halo_edge.engine.engine import PREFILL_CHUNK
from halo_edge.engine.forward import Rows
from halo_edge.engine.kv_cells import SequenceId

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WORKERS: Final = 3
CONTEXT: Final = 512
FIRST_TOKEN: Final = 10  # of the prompt, which counts up from it; models have more than 512 of them
# The sizes that --tokens does not change. The longest prompt is the context.
FULL: Final = ((16, 128), (64, 128), (128, 128), (256, 128), (512, 128), (256, 64), (256, 32))
QUICK: Final = ((32, 128), (128, 128), (128, 32))


@dataclass(frozen=True)
class Devices:
    """Who computes. Without a transport, one process."""

    transport: Transport | None = None

    def __str__(self) -> str:
        return f"{self.count}, {self.transport.value}" if self.transport is not None else "1"

    @property
    def count(self) -> int:
        return 1 if self.transport is None else WORKERS + 1


DEVICES: Final = (Devices(), Devices(Transport.UDP), Devices(Transport.TCP))


@dataclass(frozen=True)
class Case:
    """A prompt of `tokens` tokens, `chunk` of them a step."""

    devices: Devices
    tokens: int
    chunk: int

    @property
    def name(self) -> str:
        return f"{self.tokens} tokens by {self.chunk}, devices: {self.devices}"


@dataclass(frozen=True)
class Sample:
    """`ms`: of the whole prompt."""

    case: Case
    ms: Reading

    def __str__(self) -> str:
        sign = "under " if self.ms.cut_short else ""
        return f"{sign}{self.case.tokens / self.ms.value * 1e3:.1f} tokens/s"


@dataclass(frozen=True)
class Row:
    """`prompt_ms`: median, with its interval; `tokens_per_s`: what that makes. `at_least_ms` is for
    prompts that were cut short."""

    devices: int
    transport: Transport | None
    prompt_tokens: int
    chunk: int
    prompt_ms: float | None
    at_least_ms: float | None
    interval_ms: Interval | None
    tokens_per_s: float | None
    repetitions: int


@contextmanager
def _opened(
    settings: Settings, cases: Sequence[Case], tell: Tell
) -> Iterator[Opened[Case, Sample]]:
    with one_core(), ExitStack() as stack:
        sessions = {}
        for devices in dict.fromkeys(case.devices for case in cases):
            rounds = RoundsOptions(transport=devices.transport or Transport.UDP)
            options = SessionOptions(settings.model, 1, CONTEXT, devices.count - 1, None, rounds)
            sessions[devices] = stack.enter_context(open_session(options))
            _prefill(sessions[devices], PREFILL_CHUNK, PREFILL_CHUNK, settings.size.limit_s)
        tell("prefill: all sessions are open and warm")

        def measure(case: Case) -> Sample:
            session = sessions[case.devices]
            return Sample(case, _prefill(session, case.tokens, case.chunk, settings.size.limit_s))

        yield Opened(measure)


def _prefill(session: Session, tokens: int, chunk: int, limit_s: float) -> Reading:
    """Milliseconds until the logits of the last token; cut short after `limit_s`."""
    forward, sequence = session.model.forward, SequenceId(0)
    prompt = range(FIRST_TOKEN, FIRST_TOKEN + tokens)
    vocab = session.model.params.vocab
    begun = time.monotonic()
    try:
        for start in range(0, tokens, chunk):
            part = [token % vocab for token in prompt[start : start + chunk]]
            outputs = int(start + len(part) == tokens)
            forward.step([Rows(sequence, part, start, outputs)], session.gather)
            if time.monotonic() - begun > limit_s and not outputs:
                return Reading(limit_s * 1e3, cut_short=True)
        return Reading((time.monotonic() - begun) * 1e3)
    finally:
        forward.cells.release(sequence)


def _cases(settings: Settings) -> list[Case]:
    sizes = QUICK if settings.quick else FULL
    return [Case(devices, tokens, chunk) for tokens, chunk in sizes for devices in DEVICES]


def _rows(taken: Mapping[Case, Sequence[Sample]]) -> list[Row]:
    rows = []
    for case, samples in taken.items():
        middle = median_of([sample.ms for sample in samples])
        rows.append(
            Row(
                devices=case.devices.count,
                transport=case.devices.transport,
                prompt_tokens=case.tokens,
                chunk=case.chunk,
                prompt_ms=middle.value,
                at_least_ms=middle.at_least,
                interval_ms=middle.interval,
                tokens_per_s=None if middle.value is None else case.tokens / middle.value * 1e3,
                repetitions=middle.repetitions,
            )
        )
    return rows


def _devices(row: Row) -> str:
    return str(Devices(row.transport))


def _table(rows: Sequence[Row]) -> str:
    columns = (
        Column[Row]("prompt, tokens", lambda row: str(row.prompt_tokens)),
        Column[Row]("tokens a step", lambda row: str(row.chunk)),
        Column[Row]("devices", _devices, left=True),
        Column[Row]("ms", lambda row: markdown.median(row.prompt_ms, row.at_least_ms)),
        Column[Row]("interval", lambda row: markdown.interval(row.interval_ms)),
        Column[Row]("tokens/s", lambda row: markdown.number(row.tokens_per_s)),
    )
    return markdown.table(columns, rows)


def _plot(rows: Sequence[Row]) -> Figure:
    widest = max(row.chunk for row in rows)
    with axes("prompt, tokens", "tokens/s") as (figure, plot):
        for i, devices in enumerate(DEVICES):
            points = [
                Point(row.prompt_tokens, row.tokens_per_s, _rates(row))
                for row in rows
                if Devices(row.transport) == devices
                and row.chunk == widest
                and row.tokens_per_s is not None
            ]
            draw_series(plot, i, f"devices: {devices}", points)
        plot.set_ylim(bottom=0)
        plot.legend(frameon=False)
    return figure


def _rates(row: Row) -> Interval | None:
    """The interval of milliseconds as one of tokens/s."""
    found = row.interval_ms
    if found is None or found.high is None:
        return None
    low, high = (row.prompt_tokens / ms * 1e3 for ms in (found.high, found.low))
    return Interval(low, high, found.confidence)


PREFILL: Final = Experiment(
    name="prefill",
    about="Tokens/s of prompts, one process against four, over UDP and TCP.",
    row=Row,
    model="tinyllama-1.1b",
    full=Size(repetitions=5, tokens=1, limit_s=120),
    quick=Size(repetitions=3, tokens=1, limit_s=60),
    cases=_cases,
    open=_opened,
    rows=_rows,
    table=_table,
    plot=_plot,
)

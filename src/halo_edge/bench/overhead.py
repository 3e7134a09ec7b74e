"""What the rounds cost: time per token of four processes on one core against one process on it.

On one core nothing computes at the same time as anything else, so whatever four processes take
longer than one is overhead: packing, sealing, system calls, switches, waiting. A second session of
each case, which records, says where it goes; the first is free of what recording costs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Final

from halo_edge.bench import markdown
from halo_edge.bench.cores import one_core
from halo_edge.bench.decoding import CONTEXT, WARM_TOKENS, Decoder, Decoding
from halo_edge.bench.experiment import Experiment, Opened, Settings, Size, Tell
from halo_edge.bench.markdown import Column
from halo_edge.bench.median import Interval, median_of
from halo_edge.bench.plot import COLOURS, axes
from halo_edge.bench.spent import Spent, round_table, spent
from halo_edge.cluster.messages import Transport
from halo_edge.cluster.root import RoundsOptions
from halo_edge.cluster.session import Session, SessionOptions, open_session
from halo_edge.cluster.trace_summary import TokenTime, token_times
from halo_edge.compute.wire import Wire
from halo_edge.engine.trace import Recorder, Tracer
from halo_edge.lab.impairment import ImpairedLink
from halo_edge.lab.link import LinkSettings

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WORKERS: Final = 3
SEED: Final = 7


@dataclass(frozen=True)
class Case:
    """One way to compute the same tokens. `loss` is per datagram, in each direction."""

    name: str
    workers: int
    transport: Transport = Transport.UDP
    loss: float = 0.0

    def session(self, model: Path, wire: Wire, tracer: Tracer) -> SessionOptions:
        settings = LinkSettings(loss=self.loss)
        wrap = (lambda link: ImpairedLink(link, settings, SEED)) if self.loss else None
        rounds = RoundsOptions(wire=wire, transport=self.transport, wrap_link=wrap)
        return SessionOptions(model, 1, CONTEXT, self.workers, None, rounds, tracer)


CASES: Final = (
    Case("one process", 0),
    Case("UDP, no loss", WORKERS),
    Case("TCP, no loss", WORKERS, Transport.TCP),
    Case("UDP, 5 % loss", WORKERS, loss=0.05),
)


@dataclass(frozen=True)
class Sample:
    """`traced`: the tokens of another decode, which was recorded; each of `rounds` rounds."""

    decoding: Decoding
    traced: tuple[TokenTime, ...]
    rounds: int

    def __str__(self) -> str:
        return str(self.decoding)


@dataclass(frozen=True)
class Row:
    """Milliseconds per decoded token over the repetitions; `ratio`: the median of the ratios to one
    process in the same repetition."""

    name: str
    devices: int
    transport: Transport | None
    loss: float
    tpot_ms: float | None
    at_least_ms: float | None
    interval_ms: Interval | None
    tpot_ms_min: float
    tpot_ms_max: float
    ratio: float
    repetitions: int
    spent: Spent | None


class _Open:
    """A case's two sessions. The recording one keeps the first few hundred tokens."""

    def __init__(self, case: Case, model: Path, wire: Wire, stack: ExitStack) -> None:
        plain = stack.enter_context(open_session(case.session(model, wire, Tracer())))
        self._traced: Session = stack.enter_context(
            open_session(case.session(model, wire, Recorder()))
        )
        self._decoder, self._traced_decoder = Decoder(plain), Decoder(self._traced)
        self._seen = 0

    def measure(self, size: Size) -> Sample:
        decodings = []
        for decoder in (self._decoder, self._traced_decoder):
            decoder.prepare()
            decodings.append(decoder.decode(size.tokens, size.limit_s))
        times = token_times(self._traced.timeline())
        new, self._seen = times[self._seen :][WARM_TOKENS:], len(times)
        return Sample(decodings[0], tuple(new), self._traced.model.params.n_layers)


def overhead(wire: Wire = Wire.MIXED) -> Experiment[Case, Sample, Row]:
    """With x and partials in the formats `wire`."""

    @contextmanager
    def opened(
        settings: Settings, cases: Sequence[Case], tell: Tell
    ) -> Iterator[Opened[Case, Sample]]:
        with one_core(), ExitStack() as stack:
            sessions = {case: _Open(case, settings.model, wire, stack) for case in cases}
            tell(f"overhead: {len(cases)} cases are open")
            yield Opened(lambda case: sessions[case].measure(settings.size))

    return Experiment(
        name="overhead",
        row=Row,
        model="tinyllama-1.1b",
        full=Size(repetitions=7, tokens=32, limit_s=60),
        quick=Size(repetitions=3, tokens=16, limit_s=60),
        cases=lambda _: CASES,
        open=opened,
        rows=_rows,
        table=_table,
        plot=_plot,
        options={} if wire is Wire.MIXED else {"wire": wire.value},
    )


def _rows(taken: Mapping[Case, Sequence[Sample]]) -> list[Row]:
    alone = [sample.decoding.tpot.value for sample in next(iter(taken.values()))]
    return [_row(case, samples, alone) for case, samples in taken.items()]


def _row(case: Case, samples: Sequence[Sample], alone: Sequence[float]) -> Row:
    readings = [sample.decoding.tpot for sample in samples]
    values, middle = [reading.value for reading in readings], median_of(readings)
    return Row(
        name=case.name,
        devices=case.workers + 1,
        transport=case.transport if case.workers else None,
        loss=case.loss,
        tpot_ms=middle.value,
        at_least_ms=middle.at_least,
        interval_ms=middle.interval,
        tpot_ms_min=min(values),
        tpot_ms_max=max(values),
        ratio=median(a / b for a, b in zip(values, alone, strict=True)),
        repetitions=middle.repetitions,
        spent=spent([time for sample in samples for time in sample.traced], samples[0].rounds),
    )


def _table(rows: Sequence[Row]) -> str:
    columns = (
        Column[Row]("case", lambda row: row.name, left=True),
        Column[Row]("processes", lambda row: str(row.devices)),
        Column[Row]("TPOT, ms", lambda row: markdown.median(row.tpot_ms, row.at_least_ms)),
        Column[Row]("interval", lambda row: markdown.interval(row.interval_ms)),
        Column[Row]("min", lambda row: markdown.number(row.tpot_ms_min)),
        Column[Row]("max", lambda row: markdown.number(row.tpot_ms_max)),
        Column[Row]("against one process", lambda row: markdown.ratio(row.ratio)),
    )
    traced = [(row.name, row.spent) for row in rows if row.spent is not None]
    return f"{markdown.table(columns, rows)}\n\n{round_table(traced)}"


def _plot(rows: Sequence[Row]) -> Figure:
    parts: Sequence[tuple[str, Callable[[Spent], float]]] = (
        ("attention, head, sampling", lambda s: s.root.serial_ms),
        ("own FFN", lambda s: s.root.own_ffn_ms),
        ("encode and send x", lambda s: s.root.packing_ms),
        ("receive and add partials", lambda s: s.root.receive_ms + s.root.add_ms),
        ("wait", lambda s: s.root.wait_ms),
    )
    traced = [(row.name, row.spent) for row in rows if row.spent is not None]
    names = [name for name, _ in traced]
    with axes("time of a token at the root, ms", "") as (figure, plot):
        left = [0.0] * len(traced)
        for i, (label, of) in enumerate(parts):
            widths = [of(where) for _, where in traced]
            plot.barh(names, widths, left=left, color=COLOURS[i], label=label, edgecolor="white")
            left = [a + b for a, b in zip(left, widths, strict=True)]
        plot.invert_yaxis()
        plot.grid(axis="y", visible=False)
        figure.legend(loc="outside upper center", ncols=2, frameon=False)
    return figure

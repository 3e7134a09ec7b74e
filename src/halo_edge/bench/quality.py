"""Perplexity: that splitting a model, and losing packets on the way, does not change what it says.

Everything here is exact arithmetic or the same each time, so once is enough.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from halo_edge.bench import markdown
from halo_edge.bench.decoding import Decoder
from halo_edge.bench.experiment import Experiment, Opened, Settings, Size, Tell
from halo_edge.bench.markdown import Column
from halo_edge.bench.scoring import read_text
from halo_edge.cluster.root import RoundsOptions
from halo_edge.cluster.session import Session, SessionOptions, open_session
from halo_edge.compute.wire import Wire
from halo_edge.engine.perplexity import Perplexity, perplexity
from halo_edge.engine.windows import Scope
from halo_edge.groups.profile import Profile
from halo_edge.lab.impairment import ImpairedLink
from halo_edge.lab.link import LinkSettings

WORKERS: Final = 3
WINDOW: Final = 512  # tokens of a chunk of text, as in llama.cpp's own measurements
SEED: Final = 3
# Enough for a mean of bytes, which hardly differ from token to token.
TOKENS: Final = 16


@dataclass(frozen=True)
class Case:
    """`loss` is per datagram, in each direction. `packed`: the neurons are in the order of their
    profile, and ffn_down is requantised."""

    name: str
    workers: int = WORKERS
    wire: Wire = Wire.MIXED
    loss: float = 0.0
    packed: bool = False

    def session(self, settings: Settings) -> SessionOptions:
        link = LinkSettings(loss=self.loss)
        wrap = (lambda root_link: ImpairedLink(root_link, link, SEED)) if self.loss else None
        profile = None
        if self.packed and settings.profile is not None:
            profile = Profile.load(settings.profile)
        rounds = RoundsOptions(wire=self.wire, wrap_link=wrap, profile=profile)
        return SessionOptions(settings.model, 1, WINDOW, self.workers, None, rounds)


CASES: Final = (
    Case("one device", 0),
    Case("four devices, strict"),
    Case("four devices, strict, 20 % loss", loss=0.2),
    Case("four devices, strict, --wire f16", wire=Wire.F16),
    Case("four devices, strict, --wire q8_0", wire=Wire.Q8_0),
)
N_QUICK: Final = 3
PACKED: Final = Case("four devices, strict, packed by profile", packed=True)


@dataclass(frozen=True)
class Sample:
    scored: Perplexity
    bytes_per_token: float | None

    def __str__(self) -> str:
        return f"perplexity {self.scored.ppl:.4f}"


@dataclass(frozen=True)
class Row:
    """`against_one`: relative to one device, e.g. 0.001 for +0.1 %. `bytes_per_token`: of decode,
    all workers, without the headers below the datagrams."""

    name: str
    devices: int
    policy: str
    wire: Wire | None
    loss: float
    ppl: float
    stderr: float
    against_one: float
    scored_tokens: int
    windows: int
    bytes_per_token: float | None


def quality(text: Path) -> Experiment[Case, Sample, Row]:
    """Scores the text in a file. Of `Size`, `tokens` is the number of windows of 512 tokens."""

    @contextmanager
    def opened(
        settings: Settings, cases: Sequence[Case], tell: Tell
    ) -> Iterator[Opened[Case, Sample]]:
        words = read_text(text)

        def measure(case: Case) -> Sample:
            with open_session(case.session(settings)) as session:
                return _score(session, words, settings.size.tokens)

        yield Opened(measure)

    return Experiment(
        name="quality",
        row=Row,
        model=None,
        full=Size(repetitions=1, tokens=16, limit_s=3600),
        quick=Size(repetitions=1, tokens=2, limit_s=600),
        cases=_cases,
        open=opened,
        rows=_rows,
        table=_table,
        plot=None,
        options={"text": text.name},
        uses_profile=True,
    )


def _cases(settings: Settings) -> list[Case]:
    cases = CASES[:N_QUICK] if settings.quick else CASES
    return [*cases, PACKED] if settings.profile is not None else list(cases)


def _score(session: Session, text: str, windows: int) -> Sample:
    model = session.model
    *_, scored = perplexity(
        model.forward,
        session.gather,
        model.tokenizer,
        text,
        Scope(WINDOW, windows=windows),
    )
    if session.cluster is None:
        return Sample(scored, None)
    decoder, counted = Decoder(session, WINDOW), session.cluster.statistics
    decoder.prepare()
    before = counted.bytes_sent + counted.bytes_received
    decoder.decode(TOKENS, limit_s=60)
    moved = counted.bytes_sent + counted.bytes_received - before
    return Sample(scored, moved / TOKENS)


def _rows(taken: Mapping[Case, Sequence[Sample]]) -> list[Row]:
    alone = next(iter(taken.values()))[0].scored.ppl
    return [
        Row(
            name=case.name,
            devices=case.workers + 1,
            policy="strict",
            wire=case.wire if case.workers else None,
            loss=case.loss,
            ppl=sample.scored.ppl,
            stderr=sample.scored.stderr,
            against_one=sample.scored.ppl / alone - 1,
            scored_tokens=sample.scored.tokens,
            windows=sample.scored.chunks,
            bytes_per_token=sample.bytes_per_token,
        )
        for case, (sample, *_) in taken.items()
    ]


def _table(rows: Sequence[Row]) -> str:
    columns = (
        Column[Row]("", lambda row: row.name, left=True),
        Column[Row]("perplexity", lambda row: f"{row.ppl:.4f}"),
        Column[Row]("standard error", lambda row: f"{row.stderr:.2f}"),
        Column[Row]("against one device", lambda row: f"{row.against_one * 100:+.3f} %"),
        Column[Row]("bytes a token of decode", _kilobytes),
    )
    return markdown.table(columns, rows)


def _kilobytes(row: Row) -> str:
    if row.bytes_per_token is None:
        return markdown.NOTHING
    return f"{row.bytes_per_token / 1e3:.0f} kB"

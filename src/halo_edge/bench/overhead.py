"""What the rounds cost: time per token of four processes on one core against one process on it.

On one core nothing computes at the same time as anything else, so whatever four processes take
longer than one is overhead: packing, sealing, system calls, switches, waiting. All cases are open
at once and take turns, so that the machine's moods meet all of them alike.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Final

from halo_edge.cluster.messages import Transport
from halo_edge.cluster.root import RoundsOptions
from halo_edge.cluster.session import Session, SessionOptions, open_session
from halo_edge.compute.wire import Wire
from halo_edge.engine.engine import Engine
from halo_edge.engine.generation import Generator
from halo_edge.engine.sampling import SamplingParams
from halo_edge.errors import HaloError
from halo_edge.lab.impairment import ImpairedLink
from halo_edge.lab.link import LinkSettings

WORKERS: Final = 3
CONTEXT: Final = 512
PROMPT_TOKENS: Final = 8
# The first token waits for the prompt and pages in weights; it is not a token of decode.
TOKENS: Final = 33


@dataclass(frozen=True)
class Case:
    """One way to compute the same tokens. `loss` is per datagram, in each direction."""

    name: str
    workers: int
    transport: Transport = Transport.UDP
    loss: float = 0.0

    def session(self, model: Path, wire: Wire) -> SessionOptions:
        settings = LinkSettings(loss=self.loss)
        wrap = (lambda link: ImpairedLink(link, settings, 7)) if self.loss else None
        rounds = RoundsOptions(wire=wire, transport=self.transport, wrap_link=wrap)
        return SessionOptions(model, 1, CONTEXT, self.workers, None, rounds)


CASES: Final = (
    Case("one process", 0),
    Case("UDP, no loss", WORKERS),
    Case("TCP, no loss", WORKERS, Transport.TCP),
    Case("UDP, 5 % loss", WORKERS, loss=0.05),
)


@dataclass(frozen=True)
class Row:
    """Milliseconds per decoded token over the repetitions; `ratio`: the median of the ratios to one
    process in the same repetition."""

    name: str
    devices: int
    transport: str | None
    loss: float
    tpot_ms: float
    tpot_ms_min: float
    tpot_ms_max: float
    ratio: float


def measure(model: Path, wire: Wire, repetitions: int, tell: Callable[[str], None]) -> list[Row]:
    """All cases on one core. `tell` is given a line after each repetition."""
    times: list[list[float]] = [[] for _ in CASES]
    with one_core(), ExitStack() as stack:
        sessions = [stack.enter_context(open_session(case.session(model, wire))) for case in CASES]
        for session in sessions:  # weights into memory, timers and caches warm
            _tpot_ms(session)
        for repetition in range(repetitions):
            for session, taken in zip(sessions, times, strict=True):
                taken.append(_tpot_ms(session))
            last = ", ".join(f"{taken[-1]:.1f}" for taken in times)
            tell(f"{repetition + 1} of {repetitions}: {last} ms a token")
    return [_row(case, taken, times[0]) for case, taken in zip(CASES, times, strict=True)]


@contextmanager
def one_core() -> Iterator[None]:
    """Pin this process, and the children it starts meanwhile, to one core. Raises `HaloError`."""
    if not hasattr(os, "sched_setaffinity"):
        raise HaloError("pinning to one core needs Linux")
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(before)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _tpot_ms(session: Session) -> float:
    """Greedy decoding of `TOKENS` tokens after a fixed prompt; random weights may say anything."""
    engine = Engine(session.model.forward, session.gather, context=CONTEXT, end_tokens=frozenset())
    generator = Generator(engine, session.model.tokenizer)
    prompt = list(range(10, 10 + PROMPT_TOKENS))
    generation = generator.start(prompt, SamplingParams(temperature=0, max_tokens=TOKENS))
    for _ in generator.run(generation):
        pass
    engine.release(generation.sequence)
    if generation.tpot_ms is None:
        raise HaloError("the model generated nothing")
    return generation.tpot_ms


def _row(case: Case, taken: list[float], alone: list[float]) -> Row:
    return Row(
        name=case.name,
        devices=case.workers + 1,
        transport=case.transport.value if case.workers else None,
        loss=case.loss,
        tpot_ms=median(taken),
        tpot_ms_min=min(taken),
        tpot_ms_max=max(taken),
        ratio=median(a / b for a, b in zip(taken, alone, strict=True)),
    )

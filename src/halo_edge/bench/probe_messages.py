"""What an experiment and its probe tell each other: one JSON object a line.

The probe (`probe.py`) is the root's process inside a lab; the experiment stays outside, where it
can change the lab's links.
"""

from __future__ import annotations

import sys
from enum import Enum
from typing import TypeAlias

import msgspec

from halo_edge.bench.decoding import Decoding
from halo_edge.cluster.messages import Transport
from halo_edge.cluster.relaxation import RelaxOptions, Spent
from halo_edge.cluster.scheduling import Outlook
from halo_edge.cluster.trace_summary import TokenTime
from halo_edge.groups.placement import Placement


class ProbeStart(msgspec.Struct, frozen=True, kw_only=True):
    """`scheduled`: the devices share as the scheduler says, else alike. `profile`: a file.
    `directory`: for what it keeps until it ends. `memory_bytes`: that it is planned to use.
    `trace`: record where the time goes. Whom it works with is in the environment
    (`lab.Lab.environment`)."""

    model: str
    transport: Transport
    context: int
    stall_timeout_s: float
    directory: str
    profile: str | None = None
    placement: Placement = Placement.CRITICAL
    scheduled: bool = False
    memory_bytes: int | None = None
    trace: bool = False

    def command(self) -> list[str]:
        """The command line that starts it."""
        arguments = msgspec.json.encode(self).decode()
        return [sys.executable, "-m", "halo_edge.bench.probe", arguments]


class Relax(msgspec.Struct, frozen=True, tag=True):
    """How the rounds are relaxed from now on. Answered by `Done`."""

    options: RelaxOptions


class Prepare(msgspec.Struct, frozen=True, tag=True):
    """Compute the prompt and the warm tokens; `follow` is for `Decoder.prepare`. Answered by
    `Done`."""

    follow: tuple[int, ...] = ()


class Decode(msgspec.Struct, frozen=True, tag=True):
    """Decode so many more, after `settle` that do not count but for the time. Answered by
    `Decoded`."""

    tokens: int
    limit_s: float
    settle: int = 0


class Base(Enum):
    """What a scoring has to do with the base that others are compared with."""

    NONE = "none"
    KEEP = "keep"
    COMPARE = "compare"


class Score(msgspec.Struct, frozen=True, tag=True):
    """Score windows of a text: see `engine.windows.Scope`. `text`: a file. A base is compared with
    by scorings of the very same windows in the same steps. `nudged`: see `nudged.py`. Answered by
    `Scored`."""

    text: str
    context: int
    first: int
    windows: int
    step_tokens: int
    base: Base = Base.NONE
    nudged: bool = False


class Traced(msgspec.Struct, frozen=True, tag=True):
    """The times of all tokens recorded so far are wanted. Answered by `Times`."""


class Done(msgspec.Struct, frozen=True, tag=True):
    """Also the first message of all: the session is open. `rounds`: of a token."""

    rounds: int


class Decoded(msgspec.Struct, frozen=True, tag=True):
    """`begun_s`: the monotonic clock, which all processes of a machine share. `spent`: also for the
    tokens that settled. `shares`: of the neuron groups, by device, at the end, and `begins`: the
    first of each, 0 being the most important. `outlook`: what the scheduler makes of them then.
    Workers are numbered by their names."""

    begun_s: float
    decoding: Decoding
    spent: Spent
    shares: list[int] = []
    begins: list[int] = []
    outlook: Outlook | None = None


class Scored(msgspec.Struct, frozen=True, tag=True):
    """Of every scored position: `losses`, its negative log-likelihood, and `kls`, its KL from the
    base, nats (empty where nothing was compared). `same_top`: at how many the likeliest token was
    the base's. `steps_ms`: of every step; `tokens`: computed in them."""

    begun_s: float
    losses: list[float]
    kls: list[float]
    same_top: int
    steps_ms: list[float]
    tokens: int
    spent: Spent


class Times(msgspec.Struct, frozen=True, tag=True):
    tokens: list[TokenTime]


class Failed(msgspec.Struct, frozen=True, tag=True):
    """The last message: one line for people."""

    error: str


Request: TypeAlias = Relax | Prepare | Decode | Score | Traced
Reply: TypeAlias = Done | Decoded | Scored | Times | Failed

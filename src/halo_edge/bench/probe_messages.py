"""What an experiment and its probe tell each other: one JSON object a line.

The probe (`probe.py`) is the root's process inside a lab; the experiment stays outside, where it
can change the lab's links.
"""

from __future__ import annotations

import sys
from typing import TypeAlias

import msgspec

from halo_edge.bench.decoding import Decoding
from halo_edge.cluster.messages import Transport
from halo_edge.cluster.trace_summary import TokenTime


class ProbeStart(msgspec.Struct, frozen=True, kw_only=True):
    """`trace`: record where the time goes. Whom it works with is in the environment
    (`lab.Lab.environment`)."""

    model: str
    transport: Transport
    context: int
    stall_timeout_s: float
    trace: bool = False

    def command(self) -> list[str]:
        """The command line that starts it."""
        arguments = msgspec.json.encode(self).decode()
        return [sys.executable, "-m", "halo_edge.bench.probe", arguments]


class Prepare(msgspec.Struct, frozen=True, tag=True):
    """Compute the prompt and the warm tokens. Answered by `Done`."""


class Decode(msgspec.Struct, frozen=True, tag=True):
    """Decode so many more. Answered by `Decoded`."""

    tokens: int
    limit_s: float


class Traced(msgspec.Struct, frozen=True, tag=True):
    """The times of all tokens recorded so far are wanted. Answered by `Times`."""


class Done(msgspec.Struct, frozen=True, tag=True):
    """Also the first message of all: the session is open. `rounds`: of a token."""

    rounds: int


class Decoded(msgspec.Struct, frozen=True, tag=True):
    """`begun_s`: the monotonic clock, which all processes of a machine share."""

    begun_s: float
    decoding: Decoding


class Times(msgspec.Struct, frozen=True, tag=True):
    tokens: list[TokenTime]


class Failed(msgspec.Struct, frozen=True, tag=True):
    """The last message: one line for people."""

    error: str


Request: TypeAlias = Prepare | Decode | Traced
Reply: TypeAlias = Done | Decoded | Times | Failed

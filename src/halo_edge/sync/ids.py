"""The names of things in a round: devices, kinds of round, rounds.

Plain values that every other file of the room, and the transports, pass around.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final, NamedTuple, NewType

DeviceId = NewType("DeviceId", int)
"""Names a device within a session: 0 is the root, workers are 1 ... 65535."""

ROOT: Final = DeviceId(0)


class RoundKind(IntEnum):
    """What is computed in a round. Attention and the vocabulary will be further kinds."""

    FFN = 0


class RoundId(NamedTuple):
    """Names a round. Ids compare in the order in which rounds happen."""

    step: int  # u32: one forward pass of the model
    layer: int  # u16
    kind: RoundKind = RoundKind.FFN

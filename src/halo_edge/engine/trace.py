"""Where the time of a step goes: spans of the monotonic clock, recorded on the hot path.

Root and workers record alike. Activities follow each other without a gap: telling the end of one
(`lap`) is one reading of the clock, and nothing of a step stays unexplained. This file knows
neither what the activities do nor where the spans go; `cluster/trace_*.py` brings those of all
devices together.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Callable
from enum import IntEnum
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

# Of a root: 10 to 20 a round, so some 250 tokens of a model of 30 layers. 5 MB.
DEFAULT_CAPACITY: Final = 1 << 17
# The layer of what belongs to none.
NO_LAYER: Final = 0xFFFF


class Activity(IntEnum):
    """What a device was at. Files of the hot path bind members to names of their own: in Python
    3.11 to look one up in its class takes twice as long as a call."""

    STEP = 1  # contains all of the root's but SAMPLING
    ROUND = 2  # contains what belongs to one round, root or worker
    PREPARE = 3  # the step's inputs, and graphs where there are none yet
    EMBED = 4
    ATTENTION = 5
    HEAD = 6
    SAMPLING = 7
    ENCODE_X = 8
    SEND_X = 9  # copied, cut, sealed, handed to the kernel
    OWN_FFN = 10
    RECEIVE_PARTIALS = 11  # handling datagrams, and asking again for what is missing
    WAIT = 12
    ADD_PARTIALS = 13
    RECEIVE_X = 14  # a worker's: from the first chunk to the last
    FFN = 15  # a worker's shard, its result encoded for the wire
    SEND_PARTIAL = 16
    STAND_IN = 17  # the root's: the partial of a worker that does not answer
    LEARN = 18  # from the partials of a round


# One span. `begin`, `end`: ns; the last three only of a ROUND: counted since the round before.
SPAN: Final = np.dtype(
    [
        ("begin", "<i8"),
        ("end", "<i8"),
        ("step", "<u4"),
        ("layer", "<u2"),
        ("tokens", "<u2"),
        ("activity", "u1"),
        ("unused", "V3"),
        ("wants", "<u4"),
        ("retransmissions", "<u4"),
        ("bytes", "<u4"),
    ]
)
_ACTIVITY: Final = struct.Struct("<qqIHHB")  # the first fields of SPAN
_COUNTS: Final = struct.Struct("<III")  # and the last
_COUNTS_AT: Final = SPAN.itemsize - _COUNTS.size
# Of a clock. So far from the end of 64 bits, two can be subtracted from each other.
MAX_NS: Final = 1 << 61


class Tracer:
    """Told where the time goes, it forgets it at once: what is used while nobody asks.

    `step`, `layer` and `tokens` say what the spans to come belong to.
    """

    recording = False

    def __init__(self) -> None:
        self.step = -1
        self.layer = NO_LAYER
        self.tokens = 0

    def now(self) -> int:
        """The time for `start`, in ns."""
        return 0

    def start(self, at: int) -> None:
        """The next activity began at the time `at`."""

    def lap(self, activity: Activity) -> None:
        """An activity ends here, and the next begins."""

    def begin_step(self, tokens: int) -> None:
        """One more step, begun at the last `start`."""

    def end_step(self) -> None:
        """The step ended with its last activity."""

    def begin_round(self) -> None:
        """A round begins with the next activity."""

    def end_round(self, wants: int, retransmissions: int, nbytes: int) -> None:
        """The round ended with its last activity. Given are totals, of all rounds so far."""

    def data(self) -> bytes:
        """What was recorded, as `spans_of` reads it."""
        return b""

    @property
    def dropped(self) -> int:
        """Spans for which there was no room."""
        return 0


class Recorder(Tracer):
    """Keeps the first `capacity` spans, in memory allocated at once, and counts the others.

    It is only ever appended to, so that another thread may call `data` meanwhile.
    """

    recording = True

    def __init__(
        self, capacity: int = DEFAULT_CAPACITY, clock: Callable[[], int] = time.monotonic_ns
    ) -> None:
        """`clock`: ns. The default is common to all processes of a machine."""
        super().__init__()
        self._clock = clock
        self._buffer = bytearray(capacity * SPAN.itemsize)
        self._end = 0
        self._dropped = 0
        self._last = self._step_begin = self._round_begin = 0
        self._counted = (0, 0, 0)

    def now(self) -> int:
        return self._clock()

    def start(self, at: int) -> None:
        self._last = at

    def lap(self, activity: Activity) -> None:
        now = self._clock()
        self._append(activity, self._last, now)
        self._last = now

    def begin_step(self, tokens: int) -> None:
        self.step += 1
        self.layer = NO_LAYER
        self.tokens = tokens
        self._step_begin = self._last

    def end_step(self) -> None:
        self._append(Activity.STEP, self._step_begin, self._last)

    def begin_round(self) -> None:
        self._round_begin = self._last

    def end_round(self, wants: int, retransmissions: int, nbytes: int) -> None:
        if self._end < len(self._buffer):
            before = self._counted
            # A worker counts anew in each epoch.
            if wants < before[0] or retransmissions < before[1] or nbytes < before[2]:
                before = (0, 0, 0)
            _COUNTS.pack_into(
                self._buffer,
                self._end + _COUNTS_AT,
                wants - before[0],
                retransmissions - before[1],
                nbytes - before[2],
            )
        self._counted = (wants, retransmissions, nbytes)
        self._append(Activity.ROUND, self._round_begin, self._last)

    def data(self) -> bytes:
        return bytes(memoryview(self._buffer)[: self._end])

    @property
    def dropped(self) -> int:
        return self._dropped

    def _append(self, activity: Activity, begin: int, end: int) -> None:
        at, buffer = self._end, self._buffer
        if at == len(buffer):
            self._dropped += 1
            return
        _ACTIVITY.pack_into(buffer, at, begin, end, self.step, self.layer, self.tokens, activity)
        self._end = at + SPAN.itemsize  # last, for `data` in another thread


def spans_of(data: bytes) -> NDArray[Any]:
    """SPAN[n], writable, from what a `Tracer` gave as `data`. Raises ValueError for all else."""
    if len(data) % SPAN.itemsize:
        raise ValueError(f"{len(data)} bytes are no whole number of spans")
    spans = np.frombuffer(bytearray(data), SPAN)
    known = (spans["activity"] >= min(Activity)) & (spans["activity"] <= max(Activity))
    ordered = (spans["begin"] >= 0) & (spans["begin"] <= spans["end"]) & (spans["end"] < MAX_NS)
    if not (known & ordered).all():
        raise ValueError("spans of an unknown activity, or that end before they begin")
    return spans

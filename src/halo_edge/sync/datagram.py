"""The bytes of a datagram: a header in clear, which is the nonce, then a sealed body.

docs/protocol.md has the tables. This file packs and unpacks; it neither seals nor judges what it
unpacks beyond what the format itself says.
"""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import Final, NamedTuple

VERSION: Final = 2

HEADER: Final = struct.Struct("!BBHQ")
"""version u8, flags u8 (zero), sender u16, epoch u16 and counter u48 as one u64."""

BODY: Final = struct.Struct("!BBHIHHIBBBB")
"""message u8, kind u8, layer u16, step u32, tokens u16, chunk u16, stamp u32, then of the link
serial u8, copies u8, lost u8, again u8; the payload follows."""

TAG_BYTES: Final = 16
OVERHEAD: Final = HEADER.size + BODY.size + TAG_BYTES
"""Bytes of a datagram beside its payload."""

MAX_PLAIN: Final = 65_507 - OVERHEAD
"""The largest payload: UDP over IPv4 carries 65,507 bytes. TCP keeps to it as well."""

COUNTER_BITS: Final = 48
COUNTER_MASK: Final = (1 << COUNTER_BITS) - 1

K_MOST_COPIES: Final = 8
"""Whatever is asked for, a chunk travels no more often: what eight copies do not bring is an
outage."""


class Message(IntEnum):
    """What a datagram says."""

    X = 1  # root to worker: a chunk of x
    PARTIAL = 2  # worker to root: a chunk of the worker's partial
    WANT_X = 3  # worker to root: these chunks of x I lack
    WANT_PARTIAL = 4  # root to worker: these chunks of your partial I lack
    COPIES = 5  # root to worker: so often chunks travel on your link from now on; no payload


_WANT: Final = struct.Struct("!BQ")
WANT_BYTES: Final = _WANT.size
"""Bytes of a WANT's payload before its bitmap."""


class Want(NamedTuple):
    """The payload of WANT_X and WANT_PARTIAL: acknowledgement, loss report and probe in one."""

    late: bool  # a timer ran out: what is missing should have been here by now
    seen: int  # the highest counter that the asking side has received from the asked
    missing: int  # bit i is set where chunk i is missing; everything else is acknowledged

    def encode(self, n_chunks: int) -> bytes:
        """The payload's bytes, for a matrix of so many chunks."""
        return _WANT.pack(self.late, self.seen) + self.missing.to_bytes(-(-n_chunks // 8), "little")

    @classmethod
    def decode(cls, payload: memoryview, n_chunks: int) -> Want | None:
        """None where the payload cannot be a WANT about a matrix of so many chunks."""
        if len(payload) != WANT_BYTES + -(-n_chunks // 8):
            return None
        late, seen = _WANT.unpack_from(payload)
        missing = int.from_bytes(payload[WANT_BYTES:], "little")
        if late > 1 or seen > COUNTER_MASK or missing >> n_chunks:
            return None
        return cls(bool(late), seen, missing)


class Copies(NamedTuple):
    """How often the chunks of small matrices travel on a link, each way: the byte `copies`."""

    x: int  # root to worker
    partial: int  # worker to root

    def encode(self) -> int:
        """The byte."""
        return self.x << 4 | self.partial

    @classmethod
    def decode(cls, byte: int) -> Copies | None:
        """None where a number is not from 1 to K_MOST_COPIES."""
        x, partial = byte >> 4, byte & 0xF
        if not (1 <= x <= K_MOST_COPIES and 1 <= partial <= K_MOST_COPIES):
            return None
        return cls(x, partial)


def stamp_of(now: float) -> int:
    """The time as a WANT carries it: microseconds modulo 2^32, and never 0, which means none."""
    return int(now * 1e6) & 0xFFFF_FFFF or 1


def age_of(stamp: int, now: float) -> float:
    """Seconds since `stamp` was made, by the clock that made it; modulo 71 minutes."""
    return ((stamp_of(now) - stamp) & 0xFFFF_FFFF) / 1e6


def epoch_of(datagram: bytes | bytearray | memoryview) -> int | None:
    """The epoch that a datagram says it is of, be that true or not; None for what is too short."""
    if len(datagram) < OVERHEAD:
        return None
    number: int = HEADER.unpack_from(datagram)[3]
    return number >> COUNTER_BITS

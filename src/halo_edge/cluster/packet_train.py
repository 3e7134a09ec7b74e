"""What a worker's link carries, and loses, where there are no rounds: packet trains to the root.

TCP would say what it makes of the link: where one in seven packets is lost, a hundredth of what
rounds get through. Datagrams sent at once come as far apart as the slowest hop takes for each
(packet pairs: Keshav, SIGCOMM 1991), and those that do not come are counted.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import struct
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Annotated, Final

from msgspec import Meta, Struct

from halo_edge.cluster import udp
from halo_edge.cluster.messages import Ipv4, prepare

TOKEN_BYTES: Final = 16
TRAIN: Final = 32
"""Half of what a round's window lets go at once."""
DATAGRAM_BYTES: Final = udp.MAX_PAYLOAD
# Ethernet, IPv4 and UDP.
_HEADERS_BYTES: Final = 42
# With fewer between the first and the last, one that is late decides.
_LEAST_APART: Final = 8
# After the last of those that came, nothing more is expected.
_SILENCE_S: Final = 0.25
# Of a train, on a link of a few hundred kbit/s.
_DEADLINE_S: Final = 3.0
_HEAD: Final = struct.Struct(f"<{TOKEN_BYTES}sH")
# Linux: nanoseconds of when the kernel had it, not of when this process was let run.
_SO_TIMESTAMPNS: Final = 35
_TIMESPEC: Final = struct.Struct("@ll")


class TrainTask(Struct, frozen=True, kw_only=True):
    """The root asks a worker to send so many datagrams, marked with `token`, to where it listens.

    Bounded, so that nobody has a worker flood a third."""

    address: Ipv4
    port: Annotated[int, Meta(ge=1, le=65535)]
    token: Annotated[bytes, Meta(min_length=TOKEN_BYTES, max_length=TOKEN_BYTES)]
    datagrams: Annotated[int, Meta(ge=2, le=64)]


prepare(TrainTask)


@dataclass(frozen=True)
class Arrival:
    """The datagram of that index, from 0, came at `at_s`, seconds of any clock."""

    index: int
    at_s: float


def send_train(task: TrainTask) -> None:
    """At the worker. What cannot be sent is lost, as the network may lose it."""
    rest = bytes(DATAGRAM_BYTES - _HEAD.size)
    datagrams = [_HEAD.pack(task.token, index) + rest for index in range(task.datagrams)]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock, contextlib.suppress(OSError):
        sock.connect((task.address, task.port))
        for datagram in datagrams:
            with contextlib.suppress(OSError):
                sock.send(datagram)


def receive_train(local_address: str, ask: Callable[[TrainTask], None]) -> list[Arrival]:
    """At the root: what comes of a train, at most `TRAIN`. `ask` has it sent, and returns when it
    was. Raises `HaloError` where no port can be had, and what `ask` raises."""
    token = os.urandom(TOKEN_BYTES)
    with udp.bind(local_address, 0) as sock:
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
        port = sock.getsockname()[1]
        ask(TrainTask(address=local_address, port=port, token=token, datagrams=TRAIN))
        found: dict[int, Arrival] = {}
        deadline_s = time.monotonic() + _DEADLINE_S
        while len(found) < TRAIN and (left_s := deadline_s - time.monotonic()) > 0:
            if not select.select((sock,), (), (), min(_SILENCE_S, left_s))[0]:
                break
            arrival = _receive(sock, token)
            if arrival is not None:
                found.setdefault(arrival.index, arrival)
    return list(found.values())


def loss(trains: Sequence[Sequence[Arrival]]) -> float:
    """The share of these trains that did not come."""
    return 1 - sum(map(len, trains)) / (TRAIN * len(trains))


def bytes_per_s(trains: Sequence[Sequence[Arrival]]) -> float | None:
    """The rate at which they came, headers counted; None where too few did. The median: a sender
    that was not let run in between looks slow, and several that a radio carries in one frame,
    fast."""
    rates = []
    for train in trains:
        arrivals = sorted(train, key=lambda arrival: arrival.at_s)
        if arrivals:
            apart = arrivals[-1].index - arrivals[0].index
            took_s = arrivals[-1].at_s - arrivals[0].at_s
            if apart >= _LEAST_APART:
                rates.append(apart * (DATAGRAM_BYTES + _HEADERS_BYTES) / max(took_s, 1e-6))
    return median(rates) if rates else None


def _receive(sock: socket.socket, token: bytes) -> Arrival | None:
    """None for what is none of the train's."""
    try:
        data, ancillary, _, _ = sock.recvmsg(DATAGRAM_BYTES, socket.CMSG_SPACE(_TIMESPEC.size))
    except OSError:
        return None
    now_s = time.time()
    if len(data) != DATAGRAM_BYTES:
        return None
    marked, index = _HEAD.unpack_from(data)
    if marked != token or index >= TRAIN:
        return None
    for level, kind, value in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, _SO_TIMESTAMPNS) and len(value) == _TIMESPEC.size:
            seconds, nanoseconds = _TIMESPEC.unpack(value)
            now_s = seconds + nanoseconds * 1e-9
    return Arrival(index, now_s)

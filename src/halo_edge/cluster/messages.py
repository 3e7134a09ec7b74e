"""What root and workers tell each other over the control plane, as JSON.

Every message is decoded against its type and bounds (msgspec), so what reaches the rest of the
room is well formed. Vectors never travel here; see `sync` for those.
"""

from __future__ import annotations

from enum import Enum
from typing import Annotated, Final, TypeVar

import msgspec
from msgspec import Meta, Struct

from halo_edge.compute.wire import WireFormat
from halo_edge.engine.trace import MAX_NS, SPAN
from halo_edge.errors import HaloError

# Raised when a change makes roots and workers of different versions misunderstand each other, here
# or in the datagrams.
CONTROL_VERSION: Final = 5
# What a worker records, 4 spans a round: some 270 tokens of a model of 30 layers. 1.3 MB.
WORKER_SPANS: Final = 1 << 15

Count = Annotated[int, Meta(ge=0, le=1 << 48)]
Seconds = Annotated[float, Meta(ge=0, le=1e9)]
Core = Annotated[int, Meta(ge=0, le=1 << 16)]
Port = Annotated[int, Meta(ge=0, le=65535)]
Name = Annotated[str, Meta(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9_.-]+\Z")]
# People read it: without control characters, which could do things to their terminal.
Text = Annotated[str, Meta(max_length=2000, pattern=r"^[^\x00-\x1f\x7f-\x9f]*\Z")]
Sha256 = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]
_OCTET: Final = r"(25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
Ipv4 = Annotated[str, Meta(pattern=rf"^{_OCTET}(\.{_OCTET}){{3}}\Z")]


class Transport(Enum):
    """What carries the datagrams of the rounds."""

    UDP = "udp"
    TCP = "tcp"


class Decode(Struct, frozen=True):
    """Means over the last of so many `rounds` of one token, of which a worker computes so many
    neurons: seconds of CPU time, and of the clock; and the CPU time of a whole round."""

    neurons: Annotated[int, Meta(ge=0, le=1 << 24)] = 0
    rounds: Count = 0
    cpu_s: Seconds = 0.0
    wall_s: Seconds = 0.0
    round_cpu_s: Seconds = 0.0


class WorkerInfo(Struct, frozen=True, kw_only=True):
    """How a worker presents itself."""

    control_version: Count
    version: Text  # of halo-edge, for people
    worker: Name
    host: Text
    addresses: Annotated[list[Ipv4], Meta(min_length=1, max_length=32)]
    port: Port  # of rounds: UDP and TCP
    machine: Text  # the same for workers of one machine
    cores: Annotated[list[Core], Meta(min_length=1, max_length=4096)]  # on which it may run
    threads: Annotated[int, Meta(ge=1, le=4096)]
    cpu_quota: Annotated[float, Meta(gt=0, le=1e4)] | None  # CPU time a second, in cores
    memory_bytes: Count | None  # that it may use
    session: Text  # of the root that it serves; empty: of none
    decode: Decode = Decode()  # lately, for that root
    replica_bytes: Count = 0  # of the replicas it was assigned, in memory by now


class Tile(Struct, frozen=True):
    """Some consecutive neurons of a layer, packed (`groups.shard.ShardSpec`), and their sha256."""

    neurons: Annotated[int, Meta(ge=1, le=1 << 24)]
    gate_type: Count
    up_type: Count
    down_type: Count
    sha256: Sha256


Tiles = Annotated[list[Tile], Meta(max_length=4096)]
"""A device's shard of a layer; empty where it has no neurons."""


class FillTask(Struct, frozen=True):
    """A worker is to compute its fill (`cluster.fills`), of so many `columns`, K + 1, from the
    regression with that sha256, and to answer `/fill`."""

    columns: Annotated[int, Meta(ge=1, le=1025)]
    sha256: Sha256


class Holder(Struct, frozen=True):
    """Another worker, which has these tiles on its disk, or is loading them."""

    worker: Name
    tiles: Annotated[list[Sha256], Meta(max_length=1 << 16)]


class Coming(Struct, frozen=True):
    """Tiles that the root of `session` has just packed, and will assign in `epoch`: they may be
    fetched already. Each has inputs of that `width`."""

    session: Name
    epoch: Annotated[int, Meta(ge=0, le=65535)]
    width: Annotated[int, Meta(ge=1, le=1 << 20)]
    tiles: Tiles


class Assignment(Struct, frozen=True, kw_only=True):
    """A worker's part in a session: the key, its name in datagrams, its shards."""

    control_version: Count
    session: Name
    key: Annotated[bytes, Meta(min_length=32, max_length=32)]
    device: Annotated[int, Meta(ge=1, le=65535)]
    epoch: Annotated[int, Meta(ge=0, le=65535)]
    root_address: Ipv4
    root_port: Port
    transport: Transport
    x_wire: WireFormat
    partial_wire: WireFormat
    width: Annotated[int, Meta(ge=1, le=1 << 20)]  # hidden size
    max_tokens: Annotated[int, Meta(ge=1, le=65535)]
    max_payload: Annotated[int, Meta(ge=64, le=65535)]
    window: Annotated[int, Meta(ge=1, le=65535)]
    # Of each layer: what is to stay in memory; and what is read from disk for every round, the
    # least important last; empty: nothing is.
    shards: Annotated[list[Tiles], Meta(min_length=1, max_length=1024)]
    streamed: Annotated[list[Tiles], Meta(max_length=1024)] = []
    # Of each layer: others' tiles, to be loaded when the rest is there and nothing waits for it.
    replicas: Annotated[list[Tiles], Meta(max_length=1024)] = []
    holders: Annotated[list[Holder], Meta(max_length=1024)] = []
    fill: FillTask | None = None
    trace: bool = False  # record where the time goes, and answer `/trace`


class LeftOut(Struct, frozen=True):
    """A worker has no part in that epoch of its session, nor in any before that is still used."""

    session: Name
    epoch: Annotated[int, Meta(ge=0, le=65535)]


class AssignmentReply(Struct, frozen=True):
    """`error` is empty when the worker is ready."""

    error: Text = ""


class ShardPiece(Struct, frozen=True):
    """Bytes `start:stop` of a packed shard are wanted."""

    start: Count
    stop: Count


class FillPiece(Struct, frozen=True):
    """Bytes `start:stop` of the fill that a worker computed in `session` are wanted."""

    session: Name
    start: Count
    stop: Count


class TraceReply(Struct, frozen=True):
    """What a worker recorded in `session` (`engine.trace.spans_of`); nothing if it was not to."""

    session: Text = ""
    spans: Annotated[bytes, Meta(max_length=WORKER_SPANS * SPAN.itemsize)] = b""
    dropped: Count = 0


class ClockReply(Struct, frozen=True):
    """The worker's monotonic clock when it was asked."""

    now_ns: Annotated[int, Meta(ge=0, lt=MAX_NS)]


def encode(message: Struct) -> bytes:
    return msgspec.json.encode(message)


_Message = TypeVar("_Message", bound=Struct)


def decode(data: bytes, kind: type[_Message], sender: str) -> _Message:
    """Raises `HaloError` for anything that is not a `kind`."""
    try:
        return msgspec.json.decode(data, type=kind)
    except msgspec.MsgspecError as error:
        raise HaloError(
            f"{sender} sent a malformed {kind.__name__} ({error}); "
            f"is it another version of HALO Edge?"
        ) from None


def prepare(*kinds: type) -> None:
    """Work out now how they are decoded. msgspec 0.22 does that when a type is decoded for the
    first time, and ends the process where two threads do so at once."""
    for kind in kinds:
        msgspec.json.Decoder(kind)


prepare(
    WorkerInfo,
    Coming,
    Assignment,
    AssignmentReply,
    LeftOut,
    ShardPiece,
    FillPiece,
    TraceReply,
    ClockReply,
)

"""A root asks a worker what kind of device it is; the worker measures itself and tells.

Messages of the control plane, in the manner of `messages.py`. How it is measured is not known here.
"""

from __future__ import annotations

from typing import Annotated, Final

import msgspec
from msgspec import Meta, Struct

from halo_edge.cluster.messages import Name, Text, prepare
from halo_edge.compute.wire import WireFormat
from halo_edge.errors import HaloError
from halo_edge.plan.device_profile import NUMBERS, DeviceProfile

# Those of `DeviceProfile`, which a test compares.
Seconds = Annotated[float, Meta(ge=0, le=10)]
Rate = Annotated[float, Meta(ge=1e3, le=1e18)]
_GgmlType = Annotated[int, Meta(ge=0, le=255)]
MAX_SOURCES: Final = 32


class BenchmarkTask(Struct, frozen=True, kw_only=True):
    """What a worker is to measure itself with: a model's FFN, and how vectors travel.

    The sizes choose what is computed; how much memory that may take is the worker's own to say
    (`device_benchmark.measure_device`)."""

    hidden: Annotated[int, Meta(ge=1, le=1 << 16)]
    ffn: Annotated[int, Meta(ge=1, le=1 << 20)]
    gate_type: _GgmlType
    up_type: _GgmlType
    down_type: _GgmlType
    x_wire: WireFormat
    partial_wire: WireFormat


class MeasuredProfile(Struct, frozen=True, kw_only=True):
    """The numbers of a `DeviceProfile`, and where they are from."""

    memory_bytes_per_s: Rate
    flop_per_s: Rate
    kv_bytes_per_s: Rate
    graph_s: Seconds
    attention_s: Seconds
    token_s: Seconds
    encode_s: Seconds
    add_s: Seconds
    round_s: Seconds
    serve_s: Seconds
    seal_s: Seconds
    send_s: Seconds
    receive_s: Seconds
    crypto_s_per_byte: Seconds
    wake_s: Seconds
    sources: Annotated[dict[Name, Text], Meta(max_length=MAX_SOURCES)]


class BenchmarkReply(Struct, frozen=True):
    """`error` says why there is no profile. `storage_bytes_per_s`: how fast the device reads what
    it keeps shards on; None where that cannot be told."""

    profile: MeasuredProfile | None = None
    storage_bytes_per_s: Annotated[float, Meta(gt=0, le=1e13)] | None = None
    error: Text = ""


def reply_of(profile: DeviceProfile, storage_bytes_per_s: float | None) -> BenchmarkReply:
    """What the worker answers."""
    numbers = {name: getattr(profile, name) for name in NUMBERS}
    measured = MeasuredProfile(**numbers, sources=profile.sources)
    return BenchmarkReply(measured, storage_bytes_per_s)


def profile_of(reply: BenchmarkReply, worker: str) -> DeviceProfile:
    """What the root makes of the answer. Raises `HaloError` if the worker has no profile."""
    if reply.profile is None:
        raise HaloError(
            f"{worker} could not measure itself: {reply.error or 'it does not say why'}"
        )
    return msgspec.convert(msgspec.structs.asdict(reply.profile) | {"name": worker}, DeviceProfile)


prepare(BenchmarkTask, BenchmarkReply, DeviceProfile)

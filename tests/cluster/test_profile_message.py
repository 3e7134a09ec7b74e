"""The question for a device's profile and its answer: well formed, or a HaloError."""

from __future__ import annotations

import json
from typing import Any, get_type_hints

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from halo_edge.cluster.messages import decode, encode
from halo_edge.cluster.profile_message import (
    BenchmarkReply,
    BenchmarkTask,
    MeasuredProfile,
    profile_of,
    reply_of,
)
from halo_edge.compute.wire import WireFormat
from halo_edge.errors import HaloError
from halo_edge.plan.device_profile import NUMBERS, DeviceProfile

TASK = BenchmarkTask(
    hidden=2048,
    ffn=5632,
    gate_type=2,
    up_type=2,
    down_type=8,
    x_wire=WireFormat.Q8_0,
    partial_wire=WireFormat.F16,
)
PROFILE = msgspec.convert(
    {
        name: 1e9 if name.endswith("bytes_per_s") or name == "flop_per_s" else 1e-5
        for name in NUMBERS
    }
    | {"name": "pi", "sources": {"others": "measured"}},
    DeviceProfile,
)


def altered(message: msgspec.Struct, change: dict[str, Any]) -> bytes:
    return json.dumps(msgspec.to_builtins(message) | change).encode()


def test_round_trip() -> None:
    assert decode(encode(TASK), BenchmarkTask, "a root") == TASK
    reply = decode(encode(reply_of(PROFILE, 40e6)), BenchmarkReply, "pi")
    assert profile_of(reply, "pi") == PROFILE


def test_a_device_that_could_not() -> None:
    reply = decode(encode(BenchmarkReply(error="no loopback")), BenchmarkReply, "pi")
    with pytest.raises(HaloError, match="pi could not measure itself: no loopback"):
        profile_of(reply, "pi")
    with pytest.raises(HaloError, match="does not say why"):
        profile_of(BenchmarkReply(), "pi")


def test_bounds_are_those_of_a_profile() -> None:
    mine = get_type_hints(MeasuredProfile, include_extras=True)
    profiles = get_type_hints(DeviceProfile, include_extras=True)
    assert {name: mine[name] for name in NUMBERS} == {name: profiles[name] for name in NUMBERS}
    assert set(mine) == {*NUMBERS, "sources"}


@pytest.mark.parametrize(
    "change",
    [
        {"hidden": 0},
        {"hidden": 1 << 17},
        {"ffn": 0},
        {"ffn": 1 << 21},
        {"gate_type": -1},
        {"down_type": 256},
        {"x_wire": "q2"},
    ],
)
def test_a_task_out_of_bounds(change: dict[str, Any]) -> None:
    with pytest.raises(HaloError, match="malformed BenchmarkTask"):
        decode(altered(TASK, change), BenchmarkTask, "a root")


@pytest.mark.parametrize(
    "change",
    [
        {"memory_bytes_per_s": 0},
        {"flop_per_s": 1e30},
        {"graph_s": -1},
        {"wake_s": 11},
        {"wake_s": None},
        {"wake_s": "1"},
        {"sources": {"others": "\x1b[2J"}},
        {"sources": {"a b": "x"}},
        {"sources": {f"s{i}": "x" for i in range(33)}},
    ],
)
def test_a_profile_out_of_bounds(change: dict[str, Any]) -> None:
    profile = reply_of(PROFILE, 40e6).profile
    assert profile is not None
    data = b'{"profile":' + altered(profile, change) + b"}"
    with pytest.raises(HaloError, match="malformed BenchmarkReply"):
        decode(data, BenchmarkReply, "pi")


@given(st.binary(max_size=200))
def test_anything_else(data: bytes) -> None:
    for kind in (BenchmarkTask, BenchmarkReply):
        try:
            decode(data, kind, "somebody")
        except HaloError as error:
            assert "\n" not in str(error)

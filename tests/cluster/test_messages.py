"""Control messages: whatever comes over the network is a well-formed message or a HaloError."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from halo_edge.cluster.messages import (
    CONTROL_VERSION,
    Assignment,
    AssignmentReply,
    ClockReply,
    FillPiece,
    FillTask,
    ShardPiece,
    Tile,
    TraceReply,
    Transport,
    WorkerInfo,
    decode,
    encode,
)
from halo_edge.compute.wire import WireFormat
from halo_edge.errors import HaloError

TILE = Tile(neurons=64, gate_type=2, up_type=2, down_type=8, sha256="0" * 64)
ASSIGNMENT = Assignment(
    control_version=CONTROL_VERSION,
    session="s",
    key=bytes(range(32)),
    device=1,
    epoch=0,
    root_address="127.0.0.1",
    root_port=1,
    transport=Transport.UDP,
    x_wire=WireFormat.Q8_0,
    partial_wire=WireFormat.F16,
    width=64,
    max_tokens=128,
    max_payload=1200,
    window=64,
    shards=[[TILE, TILE], []],
    fill=FillTask(columns=65, sha256="0" * 64),
)


def test_round_trip() -> None:
    assert decode(encode(ASSIGNMENT), Assignment, "a root") == ASSIGNMENT


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("key", "AAAA"),
        ("device", 0),
        ("device", 70_000),
        ("session", "a/b"),
        ("session", ""),
        ("transport", "carrier pigeon"),
        ("width", 0),
        ("max_tokens", -1),
        ("max_payload", 1 << 20),
        ("shards", []),
        ("shards", [[]] * 1025),
        ("shards", [[{"neurons": 1}]]),
        ("shards", [None]),
        ("fill", {"columns": 0, "sha256": "0" * 64}),
        ("fill", {"columns": 1 << 20, "sha256": "0" * 64}),
        ("fill", {"columns": 65, "sha256": "../" + "0" * 61}),
        ("root_address", "x" * 3000),
        ("trace", "yes"),
    ],
)
def test_values_out_of_bounds(field: str, value: object) -> None:
    message = json.loads(encode(ASSIGNMENT)) | {field: value}
    with pytest.raises(HaloError, match=r"^a root sent a malformed Assignment .*another version"):
        decode(json.dumps(message).encode(), Assignment, "a root")


@given(
    st.one_of(
        st.binary(max_size=200),
        st.recursive(
            st.none() | st.integers() | st.text(max_size=5),
            lambda inner: (
                st.lists(inner, max_size=3)
                | st.dictionaries(
                    st.sampled_from(["worker", "port", "error", "start", "spans", "now_ns"]), inner
                )
            ),
            max_leaves=8,
        ).map(lambda value: json.dumps(value).encode()),
    )
)
def test_anything_else(data: bytes) -> None:
    for kind in (
        WorkerInfo,
        Assignment,
        AssignmentReply,
        ShardPiece,
        FillPiece,
        TraceReply,
        ClockReply,
    ):
        try:
            assert isinstance(decode(data, kind, "somebody"), kind)
        except HaloError as error:
            assert "\n" not in str(error)

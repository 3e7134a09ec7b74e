from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from halo_edge.sync.datagram import (
    BODY,
    COUNTER_MASK,
    HEADER,
    K_MOST_COPIES,
    OVERHEAD,
    Copies,
    Message,
    Want,
    age_of,
    epoch_of,
    stamp_of,
)
from halo_edge.sync.ids import DeviceId, RoundKind
from halo_edge.sync.seal import Opener, Sealer
from halo_edge.sync.statistics import Statistics


def test_the_sizes_are_those_of_the_documentation() -> None:
    assert (HEADER.size, BODY.size, OVERHEAD) == (12, 20, 48)


def test_the_numbers_on_the_wire_never_change() -> None:
    assert [*Message] == [1, 2, 3, 4, 5]
    assert [*RoundKind] == [0]
    link = (13, 14, 15, 16)
    body = BODY.pack(Message.WANT_X, RoundKind.FFN, 0x0102, 0x03040506, 7, 8, 0x090A0B0C, *link)
    assert body.hex() == "030001020304050600070008090a0b0c0d0e0f10"
    assert Want(True, 5, 0b1000_0000_0001).encode(12).hex() == "0100000000000000050108"


@given(
    st.integers(0, 255),
    st.integers(0, 255),
    st.integers(0, 0xFFFF),
    st.integers(0, 0xFFFF_FFFF),
    st.integers(0, 0xFFFF),
    st.integers(0, 0xFFFF),
    st.integers(0, 0xFFFF_FFFF),
    st.binary(min_size=4, max_size=4),
    st.binary(max_size=1200),
)
def test_what_is_sealed_is_what_is_opened(
    message: int,
    kind: int,
    layer: int,
    step: int,
    tokens: int,
    chunk: int,
    stamp: int,
    link: bytes,
    payload: bytes,
) -> None:
    fields = (message, kind, layer, step, tokens, chunk, stamp, *link)
    sealer = Sealer(bytes(32), DeviceId(7), 5)
    opener = Opener(bytes(32), [DeviceId(7)], 5, 1200, Statistics())
    opened = opener.open(sealer.seal(BODY.pack(*fields) + payload))
    assert opened is not None
    sender, body = opened
    assert sender == 7
    assert BODY.unpack_from(body) == fields
    assert body[BODY.size :] == payload


@given(st.integers(1, 300), st.data())
def test_a_want_survives_the_wire(n_chunks: int, data: st.DataObject) -> None:
    want = Want(
        data.draw(st.booleans()),
        data.draw(st.integers(0, COUNTER_MASK)),
        data.draw(st.integers(0, (1 << n_chunks) - 1)),
    )
    assert Want.decode(memoryview(want.encode(n_chunks)), n_chunks) == want


@given(st.binary(max_size=30), st.integers(1, 100))
def test_any_bytes_are_a_want_in_one_way_or_none(payload: bytes, n_chunks: int) -> None:
    want = Want.decode(memoryview(payload), n_chunks)
    assert want is None or want.encode(n_chunks) == payload


@pytest.mark.parametrize(
    "payload",
    [
        "",
        "00" + "00" * 8,  # no bitmap
        "00" + "00" * 8 + "0000",  # one of too many chunks
        "02" + "00" * 8 + "00",  # late is 0 or 1
        "00" + "ff" * 8 + "00",  # counters have 48 bits
        "00" + "00" * 8 + "20",  # chunk 5 of 5
    ],
)
def test_what_is_not_a_want(payload: str) -> None:
    assert Want.decode(memoryview(bytes.fromhex(payload)), 5) is None


@given(st.integers(0, 255))
def test_a_byte_says_how_often_chunks_travel_or_nothing(byte: int) -> None:
    copies = Copies.decode(byte)
    if copies is None:
        assert not all(1 <= nibble <= K_MOST_COPIES for nibble in (byte >> 4, byte & 15))
    else:
        assert copies.encode() == byte and min(copies) > 0 and max(copies) <= K_MOST_COPIES


@pytest.mark.parametrize("epoch", [0, 1, 65535])
def test_a_datagram_says_its_epoch(epoch: int) -> None:
    datagram = Sealer(bytes(32), DeviceId(1), epoch).seal(bytes(BODY.size))
    assert epoch_of(datagram) == epoch
    assert epoch_of(datagram[:-1]) is None


@given(st.floats(0, 1e7), st.floats(0, 4000))
def test_a_stamp_tells_its_age_also_when_the_clock_wraps(now: float, age: float) -> None:
    stamp = stamp_of(now)
    assert 0 < stamp < 1 << 32
    assert age_of(stamp, now + age) == pytest.approx(age, abs=3e-6)

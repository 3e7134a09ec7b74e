from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from halo_edge.sync.datagram import COUNTER_MASK, HEADER
from halo_edge.sync.errors import CountersExhausted
from halo_edge.sync.ids import ROOT, DeviceId
from halo_edge.sync.seal import REPLAY_WINDOW, Opener, ReplayWindow, Sealer
from halo_edge.sync.statistics import Statistics

KEY = bytes(range(32))
BODY = bytes(range(100, 200))


def opener(statistics: Statistics | None = None, epoch: int = 1) -> Opener:
    return Opener(KEY, [DeviceId(1), DeviceId(2)], epoch, 1200, statistics or Statistics())


@given(st.lists(st.integers(-3, 1200), min_size=1, max_size=60), st.integers(1, 5000))
def test_the_replay_window_is_the_set_of_what_came(steps: list[int], counter: int) -> None:
    """Against a plain set of all counters received."""
    window, received = ReplayWindow(), set[int]()
    for step in steps:
        for candidate in (counter, counter + step, counter - 1024 - step, counter - 1023):
            if candidate < 1:
                continue
            highest = max(received, default=0)
            expected = candidate not in received and highest - candidate < REPLAY_WINDOW
            assert window.is_new(candidate) == expected
            if expected:
                window.add(candidate)
                received.add(candidate)
                counter = max(counter, candidate)
            assert window.highest == max(received, default=0)


def test_nobody_sends_counter_zero() -> None:
    assert not ReplayWindow().is_new(0)


def test_no_two_datagrams_share_a_nonce() -> None:
    """The nonce is the header: over epochs, senders and counters they all differ."""
    headers = set()
    for epoch in (0, 1, 0xFFFF):
        for sender in (0, 1, 0xFFFF):
            sealer = Sealer(KEY, DeviceId(sender), epoch)
            headers |= {sealer.seal(b"")[: HEADER.size] for _ in range(5)}
    assert len(headers) == 3 * 3 * 5


def test_the_last_counter_is_not_passed() -> None:
    sealer = Sealer(KEY, DeviceId(1), 1)
    sealer.counter = COUNTER_MASK - 1
    assert opener().open(sealer.seal(BODY)) is not None
    with pytest.raises(CountersExhausted, match="start a new session"):
        sealer.seal(BODY)


@pytest.mark.parametrize("epoch", [-1, 65536])
def test_an_epoch_has_16_bits(epoch: int) -> None:
    with pytest.raises(ValueError, match="epoch"):
        Sealer(KEY, ROOT, epoch)


def test_a_key_has_32_bytes() -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        Sealer(bytes(16), ROOT, 1)


def test_the_payload_is_not_readable() -> None:
    assert BODY not in Sealer(KEY, DeviceId(1), 1).seal(BODY)


def test_each_refusal_is_counted_as_what_it_is() -> None:
    good = Sealer(KEY, DeviceId(1), 1).seal(BODY)
    flags = bytes([good[0], 1]) + good[2:]
    cases = {
        "wrong_length": [b"", good[:47], good + bytes(1200)],
        "wrong_version": [b"\1" + good[1:], flags],
        "unknown_sender": [
            Sealer(KEY, ROOT, 1).seal(BODY),  # our own, reflected
            Sealer(KEY, DeviceId(3), 1).seal(BODY),
        ],
        "wrong_epoch": [Sealer(KEY, DeviceId(1), 2).seal(BODY)],
        "forged": [
            Sealer(bytes(32), DeviceId(1), 1).seal(BODY),
            good[:-1],
            good + b"\0",
            good[:2] + b"\0\2" + good[4:],  # of device 1, said to be of device 2
            good[:11] + b"\7" + good[12:],  # another counter
        ],
    }
    statistics = Statistics()
    ours = opener(statistics)
    for name, datagrams in cases.items():
        for datagram in datagrams:
            assert ours.open(datagram) is None, name
        assert getattr(statistics, name) == len(datagrams)
    assert ours.highest(DeviceId(1)) == 0
    assert ours.open(good) is not None
    assert ours.open(good) is None
    assert statistics.replayed == 1
    assert statistics.datagrams_received == 3 + 2 + 2 + 1 + 5 + 2


def test_a_forgery_does_not_move_the_replay_window() -> None:
    """Else one datagram with a huge counter would shut out the real sender."""
    ours = opener()
    forger = Sealer(bytes(32), DeviceId(1), 1)
    forger.counter = COUNTER_MASK - 1
    assert ours.open(forger.seal(BODY)) is None
    assert ours.open(Sealer(KEY, DeviceId(1), 1).seal(BODY)) is not None


def test_senders_have_windows_of_their_own() -> None:
    ours = opener()
    for device in (1, 2):
        assert ours.open(Sealer(KEY, DeviceId(device), 1).seal(BODY)) is not None

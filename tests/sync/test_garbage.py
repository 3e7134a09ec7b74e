"""Garbage, truncated, replayed, foreign and damaged datagrams change nothing, 10^5 times and more.

Both ends are in the middle of a round, which is when they have most to lose. "Nothing" is every
field of every object of theirs, down to the buffers, counters alone excepted.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Iterator
from enum import Enum
from typing import Any

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from tests.sync.forged import Hand
from tests.sync.network import EPOCH, KEY, layout

from halo_edge.sync.datagram import Message, Want
from halo_edge.sync.ids import ROOT, DeviceId, RoundId
from halo_edge.sync.root import RootRounds
from halo_edge.sync.seal import Sealer
from halo_edge.sync.statistics import Statistics
from halo_edge.sync.timing import Recovery
from halo_edge.sync.worker import WorkerRounds

CASES = 60_000  # for each end
CHECK_EVERY = 500  # cases between two looks at everything
NOW = 50.0
ONE, TWO = DeviceId(1), DeviceId(2)
UNOPENED = {"_repeats"}  # counts copies, which nobody opens
LAYOUT = layout(row_bytes=408, max_tokens=16, window=8)


def snapshot(thing: Any) -> Any:
    """All that an object is made of, as plain values to compare."""
    if isinstance(thing, Statistics | AESGCM):
        return None
    if isinstance(thing, int | float | str | bytes | Enum | None):
        return thing
    if isinstance(thing, bytearray | memoryview):
        return bytes(thing)
    if isinstance(thing, dict):
        return {key: snapshot(value) for key, value in thing.items()}
    if isinstance(thing, list | tuple | range | set | frozenset | deque):
        return [snapshot(each) for each in thing]
    fields = list(getattr(thing, "__dict__", {}))
    for base in type(thing).__mro__:
        fields += getattr(base, "__slots__", ())
    assert fields, type(thing)
    return type(thing), {
        name: snapshot(getattr(thing, name)) for name in fields if name not in UNOPENED
    }


def root_and_what_it_heard() -> tuple[RootRounds, list[bytes], list[bytes]]:
    root = RootRounds(KEY, LAYOUT, [ONE, TWO], epoch=EPOCH, recovery=Recovery(), stall_timeout_s=9)
    root.begin(RoundId(1, 2), 2, bytes(816), NOW)
    root.datagrams(NOW)
    hands = [Hand(ONE), Hand(TWO)]
    said = [
        hand.say(Message.PARTIAL, chunk=chunk, payload=bytes([chunk]) * 204)
        for hand in hands
        for chunk in (0, 1, 2)
    ]
    for datagram in said:
        root.receive(datagram, NOW)
    to_come = [hand.say(Message.PARTIAL, chunk=3, payload=bytes(204)) for hand in hands]
    return root, said, to_come


def worker_and_what_it_heard() -> tuple[WorkerRounds, list[bytes], list[bytes]]:
    worker = WorkerRounds(KEY, LAYOUT, ONE, epoch=EPOCH, recovery=Recovery())
    hand = Hand(ROOT)
    said = [hand.say(Message.X, chunk=chunk, payload=bytes([chunk]) * 204) for chunk in (0, 1, 2)]
    for datagram in said:
        worker.receive(datagram, NOW)
    to_come = [hand.say(Message.X, chunk=3, payload=bytes(204))]
    return worker, said, to_come


def bad_datagrams(
    rng: random.Random, said: list[bytes], to_come: list[bytes], others: list[Sealer]
) -> Iterator[bytes]:
    """Without end: everything a hostile or broken network could make without the key."""
    while True:
        good = rng.choice(to_come)
        damaged = bytearray(good)
        for _ in range(rng.choice([1, 1, 2, 8])):
            damaged[rng.randrange(len(good))] ^= 1 << rng.randrange(8)
        for bad in (
            rng.randbytes(rng.randrange(400)),
            good[:12] + rng.randbytes(len(good) - 12),
            good[: rng.randrange(len(good))],
            good + rng.randbytes(rng.randrange(1, 100)),
            bytes(damaged),
            rng.choice(said),  # replayed
            rng.choice(said)[: rng.randrange(60)] + good[rng.randrange(60) :],
            rng.choice(others).seal(rng.choice([rng.randbytes(16 + 204), bytes(220)])),
        ):
            if bad not in to_come:  # damage can undo itself
                yield bad


def strangers(*known: DeviceId) -> list[Sealer]:
    """Another key, another epoch, a device that has no say here; with counters yet unused."""
    sealers = [Sealer(bytes(32), device, EPOCH) for device in known]
    sealers += [Sealer(KEY, device, EPOCH + 1) for device in known]
    sealers += [
        Sealer(KEY, device, EPOCH) for device in map(DeviceId, range(9)) if device not in known
    ]
    for sealer in sealers:
        sealer.counter = 1000
    return sealers


def feed(end: RootRounds | WorkerRounds, datagrams: Iterator[bytes]) -> None:
    """CASES bad datagrams, of every sort."""
    before = snapshot(end)
    received = end.statistics.datagrams_received
    for n in range(1, CASES + 1):
        end.receive(next(datagrams), NOW + 1)
        if n % CHECK_EVERY == 0:
            assert snapshot(end) == before
    assert end.statistics.datagrams_received == received + CASES
    statistics = end.statistics
    for counter in ("wrong_length", "wrong_version", "wrong_epoch", "unknown_sender"):
        assert getattr(statistics, counter) > CASES // 1000, counter
    assert statistics.duplicates == statistics.stale == statistics.malformed == 0


@pytest.mark.parametrize("seed", [1])
def test_bad_datagrams_change_nothing_at_the_root(seed: int) -> None:
    root, said, to_come = root_and_what_it_heard()
    rng = random.Random(seed)
    feed(root, bad_datagrams(rng, said, to_come, strangers(ONE, TWO)))
    for datagram in to_come:
        root.receive(datagram, NOW + 1)
    assert root.complete


@pytest.mark.parametrize("seed", [2])
def test_bad_datagrams_change_nothing_at_a_worker(seed: int) -> None:
    worker, said, to_come = worker_and_what_it_heard()
    rng = random.Random(seed)
    feed(worker, bad_datagrams(rng, said, to_come, strangers(ROOT)))
    for datagram in to_come:
        worker.receive(datagram, NOW + 1)
    assert worker.ready() is not None


def any_body(rng: random.Random) -> dict[str, Any]:
    """Fields that are near enough to what makes sense to come through each check at times."""
    n_chunks = rng.choice([2, 4, 4, 4, 32])
    want = Want(rng.random() < 0.5, rng.randrange(30), rng.randrange(1 << n_chunks))
    return {
        "message": rng.randrange(7),
        "kind": rng.choice([0, 0, 0, 1]),
        "layer": rng.randrange(6),
        "step": rng.choice([0, 1, 1, 1, 2, 0xFFFF_FFFF]) if rng.random() < 0.01 else 1,
        "tokens": rng.choice([0, 1, 2, 2, 2, 16, 17, 0xFFFF]),
        "chunk": rng.choice([0, 1, 2, 3, 3, 4, 31, 32, 0xFFFF]),
        "stamp": rng.choice([0, 1, rng.getrandbits(32)]),
        "payload": rng.choice([want.encode(n_chunks), bytes(204), rng.randbytes(9)]),
    }


def test_whatever_a_device_with_the_key_says_nothing_breaks() -> None:
    """A faulty worker or root can spoil a round, but never raises an error at the other end."""
    rng = random.Random(3)
    now = NOW
    for _ in range(40):
        root, worker = root_and_what_it_heard()[0], worker_and_what_it_heard()[0]
        hands = [Hand(ONE), Hand(TWO), Hand(ROOT)]
        for hand in hands:
            hand.sealer.counter = 1000
        for _ in range(250):
            said = rng.choice(hands).say(**any_body(rng))
            now += rng.random() * 1e-3
            root.receive(said, now)
            worker.receive(said, now)
            assert sum(len(to) for to, _ in root.datagrams(now)) <= 2 * (LAYOUT.window + 1)
            assert len(worker.datagrams(now)) <= LAYOUT.window + 1
            ready = worker.ready()
            if ready is not None and rng.random() < 0.5:
                worker.answer(ready.id, bytes(ready.tokens * 408), now)

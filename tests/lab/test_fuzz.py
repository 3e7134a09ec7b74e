"""Fault schedules hold, replay, and find the bugs that are planted here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from halo_edge.lab.fuzz import run_schedule
from halo_edge.lab.fuzz_schedule import MAX_LOSS, schedule_of
from halo_edge.lab.link import LinkSettings
from halo_edge.sync.datagram import COUNTER_BITS, HEADER
from halo_edge.sync.ids import RoundId
from halo_edge.sync.root import RootRounds
from halo_edge.sync.seal import Opener, ReplayWindow
from halo_edge.sync.transfer import Incoming, Outgoing
from halo_edge.sync.worker import WorkerRounds

# A planted bug shows within so many schedules; CI runs 2,000.
ENOUGH = 60
# That one takes an x which overtakes another, late, of the same size.
ENOUGH_FOR_RARE = 200

Patch = pytest.MonkeyPatch


def test_schedules_hold() -> None:
    broken = [report for report in map(run_schedule, range(100)) if report.broken]
    assert not broken, f"seed {broken[0].seed}: {broken[0].broken}\n" + "\n".join(broken[0].last)


def test_a_seed_is_a_schedule() -> None:
    for seed in (3, 4):
        assert run_schedule(seed) == run_schedule(seed)
    assert schedule_of(3) != schedule_of(4)


def test_schedules_are_of_many_kinds() -> None:
    assert any(run_schedule(seed).epochs > 1 for seed in range(60))
    schedules = [schedule_of(seed) for seed in range(300)]
    assert {len(s.lab.workers) for s in schedules} == {1, 2, 3, 4, 5}
    assert {event.action for s in schedules for event in s.lab.events} == {
        "cut", "join", "stop", "continue", "restart", "speed", "link"
    }  # fmt: skip
    links = [device.up for s in schedules for device in s.lab.devices]
    for name in ("loss", "jitter_ms", "reorder", "duplicate", "corrupt"):
        assert any(getattr(link, name) for link in links), name
    assert any(link.burst for link in links) and any(link.rate_mbit for link in links)


def test_no_way_loses_more_than_it_may() -> None:
    def passes(link: LinkSettings) -> float:
        return (1 - link.loss) * (1 - link.corrupt)

    for seed in range(300):
        devices = schedule_of(seed).lab.devices
        for worker in devices[1:]:
            for way in ((worker.up, devices[0].down), (devices[0].up, worker.down)):
                assert passes(way[0]) * passes(way[1]) >= 1 - MAX_LOSS - 1e-9, seed


class _SameOrLater(RoundId):
    """The id of a round that takes older ones for itself."""

    def __eq__(self, other: object) -> bool:
        return tuple(other) <= tuple(self)  # type: ignore[arg-type]

    def __ne__(self, other: object) -> bool:
        return not self == other

    __hash__ = RoundId.__hash__


def accept_chunks_twice(patch: Patch) -> None:
    receive = Incoming.receive

    def careless(self: Incoming, *chunk: Any) -> bool:
        receive(self, *chunk)
        return True

    patch.setattr(Incoming, "receive", careless)


def accept_partials_of_older_rounds(patch: Patch) -> None:
    patch.setattr(RootRounds, "receive", _with_lenient_id(RootRounds.receive))


def accept_x_of_older_rounds(patch: Patch) -> None:
    patch.setattr(WorkerRounds, "receive", _with_lenient_id(WorkerRounds.receive))


def _with_lenient_id(receive: Callable[..., None]) -> Callable[..., None]:
    def careless(self: Any, *datagram: Any) -> None:
        current = self._id
        self._id = lenient = _SameOrLater(*current)
        receive(self, *datagram)
        if self._id is lenient:
            self._id = current

    return careless


def accept_damaged_datagrams(patch: Patch) -> None:
    class Careless:
        def __init__(self, key: bytes) -> None:
            pass

        def encrypt(self, nonce: bytes, body: bytes, _: None) -> bytes:
            return body + bytes(16)

        def decrypt(self, nonce: bytes, sealed: bytes, _: None) -> bytes:
            return bytes(sealed[:-16])

    patch.setattr("halo_edge.sync.seal.AESGCM", Careless)


def forget_what_was_received(patch: Patch) -> None:
    patch.setattr(ReplayWindow, "is_new", lambda self, counter: True)


def accept_older_epochs(patch: Patch) -> None:
    opened = Opener.open

    def careless(self: Opener, datagram: bytes) -> Any:
        if len(datagram) >= HEADER.size:
            epoch = HEADER.unpack_from(datagram)[3] >> COUNTER_BITS
            if epoch < self._epoch:
                self._epoch, current = epoch, self._epoch
                try:
                    return opened(self, datagram)
                finally:
                    self._epoch = current
        return opened(self, datagram)

    patch.setattr(Opener, "open", careless)


def never_ask_again(patch: Patch) -> None:
    want = Incoming.want

    def lazy(self: Incoming, seen: int, now: float) -> bytes | None:
        return want(self, seen, now) if self._tries == 0 else None

    patch.setattr(Incoming, "want", lazy)


def never_send_again(patch: Patch) -> None:
    patch.setattr(Outgoing, "lost", lambda self: [])


def ask_all_the_time(patch: Patch) -> None:
    want = Incoming.want

    def eager(self: Incoming, seen: int, now: float) -> bytes | None:
        asked = want(self, seen, now)
        self.due = bool(self.missing)
        return asked

    patch.setattr(Incoming, "want", eager)


def timers_of_the_root_never_ring(patch: Patch) -> None:
    patch.setattr(RootRounds, "deadline", lambda self: None)


def the_stall_timeout_never_ends(patch: Patch) -> None:
    made = RootRounds.__init__

    def patient(self: RootRounds, *args: Any, **kwargs: Any) -> None:
        made(self, *args, **kwargs | {"stall_timeout_s": 1e9})

    patch.setattr(RootRounds, "__init__", patient)


def the_stall_timeout_ends_too_soon(patch: Patch) -> None:
    made = RootRounds.__init__

    def impatient(self: RootRounds, *args: Any, **kwargs: Any) -> None:
        made(self, *args, **kwargs | {"stall_timeout_s": 0.3})

    patch.setattr(RootRounds, "__init__", impatient)


BUGS = [
    accept_chunks_twice,
    accept_partials_of_older_rounds,
    accept_x_of_older_rounds,
    accept_damaged_datagrams,
    forget_what_was_received,
    accept_older_epochs,
    never_ask_again,
    never_send_again,
    ask_all_the_time,
    timers_of_the_root_never_ring,
    the_stall_timeout_never_ends,
    the_stall_timeout_ends_too_soon,
]


@pytest.mark.parametrize("bug", BUGS)
def test_a_planted_bug_is_found(bug: Callable[[Patch], None], monkeypatch: Patch) -> None:
    bug(monkeypatch)
    seeds = range(ENOUGH_FOR_RARE if bug is accept_x_of_older_rounds else ENOUGH)
    report = next((r for r in map(run_schedule, seeds) if r.broken), None)
    assert report is not None
    assert report.last
    assert run_schedule(report.seed) == report, "it must replay"

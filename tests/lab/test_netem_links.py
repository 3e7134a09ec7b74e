"""The process that keeps netem's links, on qdiscs that only take notes."""

from __future__ import annotations

import random
from contextlib import nullcontext
from typing import cast

import msgspec
import pytest

from halo_edge.lab import netem_links
from halo_edge.lab.forwarder import PortStart
from halo_edge.lab.forwarder_control import Ask, Failed, SetLink, Status
from halo_edge.lab.link import Burst, BurstState, LinkCounters, LinkSettings
from halo_edge.lab.netem import CERTAIN, Netem
from halo_edge.lab.netem_links import Direction, NetemLinks, NetemStart
from halo_edge.lab.qdisc import Books, Qdiscs

SEED = "7/n1/down"


class FakeQdiscs:
    """Takes notes of what it is set to, and has the books that a test gives it."""

    def __init__(self) -> None:
        self.outer: list[Netem] = []
        self.calls: list[str] = []
        self.books = {"outer": Books(), "inner": Books()}

    def set_outer(self, netem: Netem) -> None:
        self.outer.append(netem)
        self.calls.append("set outer")

    def set_inner(self, netem: Netem) -> None:
        self.calls.append("set inner")

    def remove_inner(self) -> None:
        self.calls.append("remove inner")

    def outer_books(self) -> Books:
        return self.books["outer"]

    def inner_books(self) -> Books:
        return self.books["inner"]


def direction(settings: LinkSettings) -> tuple[Direction, FakeQdiscs]:
    fake = FakeQdiscs()
    return Direction(settings, SEED, cast(Qdiscs, fake), 0.0), fake


def test_a_steady_link_is_set_once() -> None:
    way, fake = direction(LinkSettings(loss=0.1))
    assert not way.follow(1.0)
    assert way.changes_at == float("inf")
    assert len(fake.outer) == 1


def test_bursts_are_those_of_the_seed() -> None:
    burst = Burst(40, 10)
    way, fake = direction(LinkSettings(burst=burst))
    model = BurstState(random.Random(SEED))
    expected = [model.bad(burst, 0.0)]
    for _ in range(100):
        assert way.changes_at == model.changes_at
        now = way.changes_at
        assert way.follow(now)
        expected.append(model.bad(burst, now))
    assert [netem.loss == CERTAIN for netem in fake.outer] == expected
    assert any(expected) and not all(expected)


def test_a_late_look_takes_the_state_of_now() -> None:
    """Two changes missed make none."""
    burst = Burst(40, 10)
    way, fake = direction(LinkSettings(burst=burst))
    model = BurstState(random.Random(SEED))
    before = model.bad(burst, 0.0)
    while model.bad(burst, model.changes_at) != before:
        pass
    assert not way.follow(model.changes_at - 1e-9)
    assert len(fake.outer) == 1


def test_a_cut_link_in_bursts_stays_cut() -> None:
    way, fake = direction(LinkSettings(burst=Burst(40, 10, 0.5), cut=True))
    for _ in range(20):
        way.follow(way.changes_at)
    assert {netem.loss for netem in fake.outer} == {CERTAIN}


def test_drops_are_counted_by_their_cause() -> None:
    way, fake = direction(LinkSettings(loss=0.1, rate_mbit=10))
    # The outer qdisc counts what the inner one drops, too.
    fake.books = {"outer": Books(80, 15, 5), "inner": Books(80, 5, 5)}
    assert way.counters() == LinkCounters(offered=100, lost=10, overflowed=5)
    way.change(LinkSettings(loss=0.1, rate_mbit=10, cut=True), 1.0)
    fake.books = {"outer": Books(85, 115, 0), "inner": Books(85, 5, 0)}
    assert way.counters() == LinkCounters(offered=200, lost=10, overflowed=5, cut=100)
    way.change(LinkSettings(loss=0.1, rate_mbit=10), 2.0)
    fake.books = {"outer": Books(90, 116, 0), "inner": Books(90, 5, 0)}
    assert way.counters() == LinkCounters(offered=206, lost=11, overflowed=5, cut=100)


def test_the_inner_qdisc_comes_and_goes_with_the_rate() -> None:
    way, fake = direction(LinkSettings(rate_mbit=10))
    fake.books = {"outer": Books(0, 7, 0), "inner": Books(0, 7, 0)}
    way.change(LinkSettings(loss=0.1), 1.0)
    fake.books = {"outer": Books(0, 10, 0), "inner": Books()}
    assert way.counters() == LinkCounters(offered=10, lost=3, overflowed=7)
    way.change(LinkSettings(duplicate=0.1), 2.0)
    way.change(LinkSettings(rate_mbit=20), 3.0)  # a new one, whose books begin at nothing
    fake.books = {"outer": Books(0, 12, 0), "inner": Books(0, 2, 0)}
    assert way.counters() == LinkCounters(offered=12, lost=3, overflowed=9)


def test_no_qdisc_repeats_packets_while_there_are_two() -> None:
    """Newer kernels refuse that."""
    way, fake = direction(LinkSettings(rate_mbit=10))
    way.change(LinkSettings(duplicate=0.1), 1.0)
    way.change(LinkSettings(rate_mbit=10), 2.0)
    assert fake.calls == [
        *("set outer", "set inner"),
        *("remove inner", "set outer"),
        *("set outer", "set inner"),
    ]


class FakeBridge:
    def join(self, namespace: str, interface: str, mac: str) -> tuple[int, int]:
        return 2, 3


@pytest.fixture
def links(monkeypatch: pytest.MonkeyPatch) -> NetemLinks:
    """Of two devices, the second with loss on its way down."""
    monkeypatch.setattr(netem_links, "Bridge", FakeBridge)
    monkeypatch.setattr(netem_links, "Qdiscs", lambda index: FakeQdiscs())
    monkeypatch.setattr(netem_links, "inside", lambda namespace: nullcontext())
    clean, lossy = LinkSettings(), LinkSettings(loss=0.1)
    ports = [
        PortStart("n0", "halo.x.n0", "02:00:00:00:00:01", clean, clean),
        PortStart("n1", "halo.x.n1", "02:00:00:00:00:02", clean, lossy),
    ]
    return NetemLinks(NetemStart(seed=1, interface="lan0", ports=ports, control="", parent=0))


def test_asked_it_says_what_it_does(links: NetemLinks) -> None:
    status = links.handle(msgspec.json.encode(Ask()))
    assert isinstance(status, Status)
    assert {name: (d.up.loss, d.down.loss) for name, d in status.devices.items()} == {
        "n0": (0, 0),
        "n1": (0, 0.1),
    }


def test_a_link_is_changed(links: NetemLinks) -> None:
    up, down = LinkSettings(delay_ms=3), LinkSettings(cut=True)
    status = links.handle(msgspec.json.encode(SetLink("n0", up, down)))
    assert isinstance(status, Status)
    assert (status.devices["n0"].up, status.devices["n0"].down) == (up, down)


@pytest.mark.parametrize(
    ("request_", "reason"),
    [
        (SetLink("n7", LinkSettings(), LinkSettings()), "no device 'n7'"),
        (SetLink("n1", LinkSettings(), LinkSettings(jitter_ms=1, reorder=0.5)), "forwarder"),
        ({"type": "SetLink", "device": "n1", "up": {"loss": 7}, "down": {}}, "not a request"),
        ([], "not a request"),
    ],
)
def test_what_it_refuses_changes_nothing(links: NetemLinks, request_: object, reason: str) -> None:
    reply = links.handle(msgspec.json.encode(request_))
    assert isinstance(reply, Failed)
    assert reason in reply.error
    status = links.handle(msgspec.json.encode(Ask()))
    assert isinstance(status, Status)
    assert status.devices["n1"].down == LinkSettings(loss=0.1)

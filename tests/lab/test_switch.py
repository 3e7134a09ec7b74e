"""The switch, in virtual time."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from halo_edge.lab import switch as module
from halo_edge.lab.link import Arrival, Link, LinkCounters, LinkSettings
from halo_edge.lab.switch import Port, Switch

CLEAN = LinkSettings()
ALL = b"\xff" * 6
GROUP = bytes.fromhex("01005e010203")  # IP multicast


def mac(port: int) -> bytes:
    return bytes([2, 0, 0, 0, 0, port + 1])


def frame(to: bytes, source: int, payload: bytes = b"payload") -> bytes:
    return to + mac(source) + b"\x08\x00" + payload


class Lan:
    """A switch, and every frame it hands over: (when, to which port, payload)."""

    link = Link

    def __init__(self, *links: tuple[LinkSettings, LinkSettings]) -> None:
        self.ports = [
            Port(mac(i), self.link(up, f"1/n{i}/up"), self.link(down, f"1/n{i}/down"))
            for i, (up, down) in enumerate(links)
        ]
        self.switch = Switch(self.ports)

    def send(self, source: int, to: bytes, now: float = 0.0, payload: bytes = b"payload") -> None:
        self.switch.frame(source, frame(to, source, payload), now)

    def until(self, now: float) -> list[tuple[float, int, bytes]]:
        found = []
        while (due := self.switch.due(now)) is not None:
            found.append((due[0], due[1], due[2][14:]))
        return found

    def all(self) -> list[tuple[float, int, bytes]]:
        """As a forwarder gets them, that is woken when something is due."""
        found = []
        while (now := self.switch.next_due) is not None:
            found += self.until(now)
        return found


class InOrderLink(Link):
    """Refuses to go back in time, which `Link.send` does not look for."""

    latest = 0.0

    def send(self, nbytes: int, now: float) -> tuple[Arrival, ...]:
        assert now >= self.latest
        self.latest = now
        return super().send(nbytes, now)


class InOrderLan(Lan):
    link = InOrderLink


def clean(ports: int) -> Lan:
    return Lan(*[(CLEAN, CLEAN)] * ports)


class TestWay:
    def test_to_one(self) -> None:
        """Up the sender's link, then down the receiver's."""
        lan = Lan(
            (LinkSettings(delay_ms=1), LinkSettings(delay_ms=10)),
            (CLEAN, CLEAN),
            (LinkSettings(delay_ms=20), LinkSettings(delay_ms=3)),
        )
        lan.send(0, mac(2), now=7.0)
        assert lan.switch.next_due == 7.001
        assert lan.until(7.0009) == []
        assert lan.until(7.001) == []
        assert lan.switch.next_due == pytest.approx(7.004)
        ((at, port, payload),) = lan.until(8.0)
        assert (at, port, payload) == (pytest.approx(7.004), 2, b"payload")
        assert lan.switch.next_due is None

    def test_a_clean_way_takes_no_time(self) -> None:
        lan = clean(2)
        lan.send(0, mac(1), now=7.0)
        assert lan.until(7.0) == [(7.0, 1, b"payload")]

    @pytest.mark.parametrize("to", [ALL, GROUP])
    def test_to_all(self, to: bytes) -> None:
        lan = clean(4)
        lan.send(2, to)
        assert lan.all() == [(0.0, port, b"payload") for port in (0, 1, 3)]

    def test_to_nobody(self) -> None:
        lan = clean(2)
        lan.send(0, mac(7))
        assert lan.all() == []
        assert lan.switch.unknown == 1

    def test_a_late_look_finds_the_true_times(self) -> None:
        """The second link counts from when the frame left the first, not from when one looked."""
        lan = Lan((LinkSettings(delay_ms=1), CLEAN), (CLEAN, LinkSettings(delay_ms=2)))
        lan.send(0, mac(1))
        assert lan.until(9.0) == [(pytest.approx(0.003), 1, b"payload")]


class TestLoss:
    def test_of_the_sender_holds_for_all_copies(self) -> None:
        lan = Lan((LinkSettings(loss=0.5), CLEAN), (CLEAN, CLEAN), (CLEAN, CLEAN))
        for i in range(200):
            lan.send(0, ALL, payload=b"%d" % i)
        arrived = lan.all()
        assert {p for _, port, p in arrived if port == 1} == {
            p for _, port, p in arrived if port == 2
        }
        assert len(arrived) == 2 * (200 - lan.ports[0].up.counters.lost)
        assert 0 < lan.ports[0].up.counters.lost < 200

    def test_of_each_receiver_is_its_own(self) -> None:
        half = LinkSettings(loss=0.5)
        lan = Lan((CLEAN, CLEAN), (CLEAN, half), (CLEAN, half), (CLEAN, CLEAN))
        for i in range(200):
            lan.send(0, ALL, payload=b"%d" % i)
        arrived = lan.all()
        got = [{p for _, port, p in arrived if port == i} for i in range(4)]
        assert got[0] == set() and len(got[3]) == 200
        assert got[1] != got[2]
        for i in (1, 2):
            lost = 200 - len(got[i])
            assert lan.ports[i].down.counters == LinkCounters(offered=200, lost=lost)
            assert 60 < lost < 140

    def test_unicast_passes_no_other_link(self) -> None:
        lan = clean(3)
        lan.send(0, mac(1))
        lan.all()
        offered = [(p.up.counters.offered, p.down.counters.offered) for p in lan.ports]
        assert offered == [(1, 0), (0, 1), (0, 0)]


class TestOrder:
    @pytest.mark.parametrize("delay_ms", [0, 1])
    def test_is_kept(self, delay_ms: float) -> None:
        """Also of frames that arrive at the very same time."""
        settings = LinkSettings(delay_ms=delay_ms)
        lan = Lan((settings, CLEAN), (CLEAN, settings))
        for i in range(100):
            lan.send(0, mac(1), now=0.0, payload=b"%d" % i)
        assert [payload for *_, payload in lan.all()] == [b"%d" % i for i in range(100)]

    def test_of_senders_with_different_delays(self) -> None:
        """Who is nearer gets to the switch first, though it sent later."""
        lan = Lan((LinkSettings(delay_ms=5), CLEAN), (CLEAN, CLEAN), (CLEAN, CLEAN))
        lan.send(0, mac(2), now=0.000, payload=b"far")
        lan.send(1, mac(2), now=0.001, payload=b"near")
        assert [payload for *_, payload in lan.all()] == [b"near", b"far"]

    @given(
        st.lists(st.floats(0, 20), min_size=6, max_size=6),
        st.lists(st.tuples(st.floats(0, 0.005), st.integers(0, 2), st.integers(0, 3)), max_size=50),
    )
    def test_links_are_offered_frames_in_order_of_time(
        self, delays_ms: list[float], sent: list[tuple[float, int, int]]
    ) -> None:
        """And whether one looks after each frame, or only at the end, changes nothing."""
        settings = [LinkSettings(delay_ms=ms, jitter_ms=ms, reorder=0.5) for ms in delays_ms]
        both = []
        for look in (True, False):
            lan = InOrderLan(*zip(settings[:3], settings[3:], strict=True))
            now, arrived = 0.0, []
            for i, (gap_s, source, to) in enumerate(sent):
                now += gap_s
                lan.send(source, ALL if to == 3 else mac(to), now, b"%d" % i)
                if look:
                    arrived += lan.until(now)
            arrived += lan.until(now + 1)
            assert lan.switch.next_due is None
            assert len(arrived) == sum(2 if to == 3 else 1 for _, _, to in sent)
            assert [at for at, *_ in arrived] == sorted(at for at, *_ in arrived)
            both.append(sorted(arrived))
        assert both[0] == both[1]


class TestDamage:
    def test_flips_one_bit_of_the_payload(self) -> None:
        lan = Lan((CLEAN, CLEAN), (CLEAN, LinkSettings(corrupt=1.0)))
        sent = bytes(20)
        flipped = set()
        for _ in range(500):
            lan.switch.frame(0, frame(mac(1), 0, sent), 0.0)
            found = lan.switch.due(0.0)
            assert found is not None
            assert found[2][:14] == frame(mac(1), 0)[:14]
            got = int.from_bytes(found[2][14:], "big")
            assert got.bit_count() == 1
            flipped.add(got)
        assert len(flipped) > 100

    def test_of_a_frame_without_payload(self) -> None:
        lan = Lan((LinkSettings(corrupt=1.0), CLEAN), (CLEAN, CLEAN))
        lan.send(0, mac(1), payload=b"")
        assert lan.all() == [(0.0, 1, b"")]

    def test_repeated(self) -> None:
        """Up and down: four."""
        twice = LinkSettings(duplicate=1.0)
        lan = Lan((twice, CLEAN), (CLEAN, twice))
        lan.send(0, mac(1))
        assert lan.all() == [(0.0, 1, b"payload")] * 4


class TestMemory:
    def test_is_bounded_and_used_again(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(module, "MAX_QUEUED_BYTES", 10_000)
        lan = Lan((LinkSettings(delay_ms=5), CLEAN), (CLEAN, CLEAN))
        for _ in range(100):
            lan.send(0, mac(1), payload=bytes(1000))
        arrived = len(lan.all())
        assert 5 < arrived <= 10
        assert lan.switch.overflowed == 100 - arrived
        lan.send(0, mac(1), now=1.0)
        assert len(lan.all()) == 1

    def test_small_frames_count_for_more_than_their_bytes(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(module, "MAX_QUEUED_BYTES", 10_000)
        lan = Lan((LinkSettings(delay_ms=5), CLEAN), (CLEAN, CLEAN))
        for _ in range(100):
            lan.send(0, mac(1), payload=b"")
        assert len(lan.all()) < 50

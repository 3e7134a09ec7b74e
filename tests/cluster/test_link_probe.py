"""What a link is like, from how long questions take."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from tests.cluster.worker_infos import info

from halo_edge.cluster import link_probe
from halo_edge.cluster.link_probe import PROBE_BYTES, LinkProbe
from halo_edge.cluster.packet_train import DATAGRAM_BYTES, TRAIN, Arrival, TrainTask
from halo_edge.errors import HaloError


class Network:
    """Questions take so long; every third one, half a second more. Of each train the datagrams of
    `come` come."""

    def __init__(self, rtt_s: float, bytes_per_s: float, come: Sequence[int] = ()) -> None:
        self.now = 0.0
        self._come = come
        self.asked: list[tuple[str, int]] = []
        self._rtt_s, self._rate = rtt_s, bytes_per_s

    def monotonic(self) -> float:
        return self.now

    def ask(self, _: Any, key: str, question: bytes, timeout_s: float) -> bytes:
        self.asked.append((key, len(question)))
        self.now += self._rtt_s + 2 * len(question) / self._rate
        self.now += 0.0 if len(self.asked) % 3 else 0.5
        return question

    def train(self, address: str, ask: Callable[[TrainTask], None]) -> list[Arrival]:
        ask(TrainTask(address=address, port=1, token=bytes(16), datagrams=TRAIN))
        return [Arrival(i, self.now + i * (DATAGRAM_BYTES + 42) / self._rate) for i in self._come]


def probe(monkeypatch: pytest.MonkeyPatch, network: Any) -> LinkProbe:
    monkeypatch.setattr(link_probe, "time", network)
    monkeypatch.setattr("halo_edge.cluster.control.ask", network.ask)
    monkeypatch.setattr("halo_edge.cluster.packet_train.receive_train", network.train)
    return LinkProbe(None, "home")  # type: ignore[arg-type]


def test_the_best_of_several(monkeypatch: pytest.MonkeyPatch) -> None:
    network = Network(0.004, 2.5e6)
    link = probe(monkeypatch, network).link(info("w1"))
    assert link.up == link.down
    assert 2 * link.up.delay_s == pytest.approx(0.004, abs=5e-4)
    assert link.up.bytes_per_s == pytest.approx(2.5e6, rel=0.01)
    assert link.up.loss == 0
    keys = [key.removeprefix("halo/home/worker/w1/") for key, _ in network.asked]
    assert set(keys) == {"echo", "packet-train"}
    assert keys.count("packet-train") == 1, "after one of which nothing came"
    assert max(nbytes for _, nbytes in network.asked) == PROBE_BYTES


def test_trains_say_what_is_lost_and_how_fast_the_rest_comes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    network = Network(0.004, 2.5e6, [i for i in range(TRAIN) if i % 4 != 1])
    link = probe(monkeypatch, network).link(info("w1"))
    assert link.up.loss == link.down.loss == pytest.approx(0.25)
    assert link.up.bytes_per_s == pytest.approx(2.5e6, rel=0.01)
    assert max(nbytes for _, nbytes in network.asked) < PROBE_BYTES, "TCP is not asked"


def test_no_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    link = probe(monkeypatch, Network(0.0001, 1e9)).link(info("w1"))
    assert link.up.bytes_per_s == math.inf
    assert link.up.delay_s == 0


def test_one_round_trip(monkeypatch: pytest.MonkeyPatch) -> None:
    network = Network(0.01, 1e9)
    assert probe(monkeypatch, network).rtt_s(info("w1")) == pytest.approx(0.01, abs=5e-4)
    assert len(network.asked) == 1


def test_questions_that_are_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """Some are, and the long ones all."""

    class Lossy(Network):
        def ask(self, session: Any, key: str, question: bytes, timeout_s: float) -> bytes:
            answer = super().ask(session, key, question, timeout_s)
            if len(question) > 1 or len(self.asked) < 6:
                self.now += timeout_s
                raise HaloError("no answer")
            return answer

    link = probe(monkeypatch, Lossy(0.004, 2.5e6)).link(info("w1"))
    assert 2 * link.up.delay_s == pytest.approx(0.004, abs=5e-4)
    assert link.up.bytes_per_s == math.inf


def test_nobody_there(monkeypatch: pytest.MonkeyPatch) -> None:
    class Nobody(Network):
        def ask(self, *_: Any) -> bytes:
            raise HaloError("no answer")

    with pytest.raises(HaloError, match="no answer"):
        probe(monkeypatch, Nobody(0.0, 1.0)).link(info("w1"))

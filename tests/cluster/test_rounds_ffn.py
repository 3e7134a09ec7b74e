"""Each part of a round is told under its name. Losses and recovery: tests/sync."""

from __future__ import annotations

from typing import Any

from halo_edge.cluster.epoch import Epoch
from halo_edge.cluster.relaxation import RelaxOptions
from halo_edge.cluster.rounds_ffn import RoundsFfn
from halo_edge.cluster.speed import DecodeClock
from halo_edge.engine.trace import Activity, Recorder, spans_of
from halo_edge.sync.ids import DeviceId
from halo_edge.sync.statistics import Statistics

A = Activity


class Slow:
    """All of a cluster's parts: each takes a time of its own, and does nothing else."""

    def __init__(self) -> None:
        self.now = 0
        self.complete = False
        self.unsettled = False
        self.statistics = Statistics()
        self._waiting: list[bytes] = []
        self._arrivals = [2, 1]  # datagrams that each wait brings

    def encode(self, tokens: int) -> bytes:
        self.now += 1
        return b""

    def begin(self, *_: object) -> None:
        self.now += 10

    def datagrams(self, now: float) -> list[Any]:
        return []

    def run(self, layer: int, tokens: int) -> bool:
        self.now += 100
        return False

    def clear(self, tokens: int) -> None:
        self.now += 5

    def wait(self, timeout_s: float) -> None:
        self.now += 1_000
        self._waiting = [b""] * self._arrivals.pop(0)

    def receive(self, *datagram: Any) -> bytes | None:
        if datagram:  # the rounds' receive; else the link's
            self.now += 10_000
            self.statistics.bytes_received += 7
            self.complete = not self._arrivals and not self._waiting
            return None
        return self._waiting.pop() if self._waiting else None

    @property
    def away(self) -> frozenset[DeviceId]:
        return frozenset()

    def retune(self, **_: object) -> None: ...

    def deadline(self) -> None:
        return None

    def overdue(self, now: float) -> list[Any]:
        return []

    def add(self, tokens: int) -> None:
        self.now += 100_000


def test_each_part_of_a_round_under_its_name() -> None:
    slow: Any = Slow()
    recorder = Recorder(100, lambda: slow.now)
    recorder.begin_step(1)
    recorder.layer = 4
    epoch = Epoch(slow, {DeviceId(1): "a"}, slow, DecodeClock(0), slow, slow, None)
    gather = RoundsFfn(epoch, RelaxOptions(), slow, slow, slow, lambda: None, recorder)
    gather.ffn(4, 1)
    spans = spans_of(recorder.data())
    assert [(s["activity"], s["end"] - s["begin"]) for s in spans] == [
        (A.ENCODE_X, 1),
        (A.SEND_X, 10),
        (A.OWN_FFN, 105),
        (A.RECEIVE_PARTIALS, 0),
        (A.WAIT, 1_000),
        (A.RECEIVE_PARTIALS, 20_000),
        (A.WAIT, 1_000),
        (A.RECEIVE_PARTIALS, 10_000),
        (A.ADD_PARTIALS, 100_000),
        (A.ROUND, 132_116),
    ]
    assert (spans["begin"][1:-1] == spans["end"][:-2]).all()
    assert spans["bytes"].tolist() == [0] * 9 + [21]


def test_a_root_alone_encodes_sends_and_adds_nothing() -> None:
    slow: Any = Slow()
    recorder = Recorder(100, lambda: slow.now)
    recorder.begin_step(1)
    epoch = Epoch(slow, {}, slow, DecodeClock(0), slow, slow, None)
    gather = RoundsFfn(epoch, RelaxOptions(), slow, slow, slow, lambda: None, recorder)
    gather.ffn(4, 1)
    spans = spans_of(recorder.data())
    assert [(s["activity"], s["end"] - s["begin"]) for s in spans] == [
        (A.OWN_FFN, 105),
        (A.ROUND, 105),
    ]
    assert gather.spent().rounds == 1

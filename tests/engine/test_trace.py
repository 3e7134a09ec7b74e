"""Spans follow each other without a gap, belong where they should, and never need more memory."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from halo_edge.engine.engine import Engine
from halo_edge.engine.forward import Rows
from halo_edge.engine.gather import LocalFfn
from halo_edge.engine.kv_cells import SequenceId
from halo_edge.engine.sampling import SamplingParams
from halo_edge.engine.trace import MAX_NS, NO_LAYER, SPAN, Activity, Recorder, Tracer, spans_of
from halo_edge.errors import HaloError

A = Activity


class Clock:
    """Stands still unless told to go on."""

    def __init__(self) -> None:
        self.now = 1000

    def __call__(self) -> int:
        return self.now


def rows(tracer: Tracer, *fields: str) -> list[Any]:
    spans: list[Any] = spans_of(tracer.data())[list(fields)].tolist()
    return spans


def test_a_step_with_a_round() -> None:
    clock = Clock()
    recorder = Recorder(10, clock)
    recorder.start(recorder.now())
    clock.now += 5
    recorder.begin_step(7)
    clock.now += 1
    recorder.lap(A.PREPARE)
    recorder.layer = 3
    recorder.begin_round()
    clock.now += 10
    recorder.lap(A.ENCODE_X)
    clock.now += 20
    recorder.lap(A.WAIT)
    recorder.end_round(2, 3, 100)
    clock.now += 1000  # nobody says that this belongs to the step
    recorder.end_step()
    assert rows(recorder, "activity", "begin", "end", "step", "layer", "tokens") == [
        (A.PREPARE, 1000, 1006, 0, NO_LAYER, 7),
        (A.ENCODE_X, 1006, 1016, 0, 3, 7),
        (A.WAIT, 1016, 1036, 0, 3, 7),
        (A.ROUND, 1006, 1036, 0, 3, 7),
        (A.STEP, 1000, 1036, 0, 3, 7),
    ]


def test_counts_are_since_the_round_before() -> None:
    recorder = Recorder(10, Clock())
    recorder.begin_step(1)
    for totals in ((1, 2, 300), (1, 5, 1000), (4, 5, 1000)):
        recorder.begin_round()
        recorder.end_round(*totals)
    assert rows(recorder, "wants", "retransmissions", "bytes") == [
        (1, 2, 300),
        (0, 3, 700),
        (3, 0, 0),
    ]


def test_counts_begin_anew_with_another_epoch() -> None:
    recorder = Recorder(10, Clock())
    recorder.begin_step(1)
    for totals in ((7, 5, 1000), (1, 2, 300), (1, 2, 400)):
        recorder.begin_round()
        recorder.end_round(*totals)
    assert rows(recorder, "wants", "retransmissions", "bytes") == [
        (7, 5, 1000),
        (1, 2, 300),
        (0, 0, 100),
    ]


def test_full() -> None:
    """The first spans stay, whatever kind comes after."""
    recorder = Recorder(2, Clock())
    recorder.begin_step(1)
    recorder.lap(A.EMBED)
    recorder.lap(A.HEAD)
    kept = recorder.data()
    for _ in range(3):
        recorder.lap(A.EMBED)
        recorder.begin_round()
        recorder.end_round(1, 1, 1)
    recorder.end_step()
    assert recorder.data() == kept
    assert len(kept) == 2 * SPAN.itemsize
    assert recorder.dropped == 7


def test_nothing_is_kept_while_nobody_asks() -> None:
    tracer = Tracer()
    tracer.start(tracer.now())
    tracer.begin_step(1)
    tracer.lap(A.EMBED)
    tracer.end_step()
    assert (tracer.recording, tracer.data(), tracer.dropped) == (False, b"", 0)


def span(**fields: int) -> bytes:
    one = np.zeros(1, SPAN)
    for name, value in ({"activity": 1, "begin": 5, "end": 6} | fields).items():
        one[name] = value
    return one.tobytes()


@pytest.mark.parametrize(
    "data",
    [
        b"x",
        span()[:-1],
        span() + span(activity=0),
        span(activity=len(A) + 1),
        span(begin=7),
        span(begin=-1),
        span(end=MAX_NS),
    ],
)
def test_what_is_no_span(data: bytes) -> None:
    assert len(spans_of(span() + span(begin=6, end=MAX_NS - 1))) == 2
    with pytest.raises(ValueError, match="spans"):
        spans_of(data)


class SlowFfn:
    """Takes 100 ns a layer."""

    def __init__(self, tracer: Tracer, clock: Clock) -> None:
        self._tracer = tracer
        self._clock = clock

    def ffn(self, layer: int, tokens: int) -> None:
        self._clock.now += 100
        self._tracer.lap(A.OWN_FFN)


def test_each_part_of_a_step_under_its_name(
    tiny_model: Any, open_model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Graphs that do nothing but take a time of their own."""
    forward, clock = open_model(tiny_model).forward, Clock()
    recorder = forward.tracer = Recorder(100, clock)

    def takes(ns: int) -> Any:
        def graph() -> None:
            clock.now += ns

        return graph

    layers_of = SimpleNamespace(graphs=[takes(10), takes(20), takes(30)], look=lambda _: None)
    monkeypatch.setattr(forward, "_layer_graphs", lambda _: layers_of)
    monkeypatch.setattr(forward, "_end_graphs", lambda *_: (takes(1), takes(5)))
    gather = SlowFfn(recorder, clock)
    forward.step([Rows(SequenceId(0), [1, 2], 0, 1)], gather)
    forward.step([Rows(SequenceId(0), [3], 2, 0)], gather)
    layers = [
        (activity, layer, ns)
        for layer, attention in enumerate((10, 20, 30))
        for activity, ns in ((A.ATTENTION, attention), (A.OWN_FFN, 100))
    ]
    expected = [(A.PREPARE, NO_LAYER, 0), (A.EMBED, NO_LAYER, 1), *layers]
    spans = spans_of(recorder.data())
    found = [(s["activity"], s["layer"], s["end"] - s["begin"]) for s in spans]
    assert found == [
        *expected, (A.HEAD, NO_LAYER, 5), (A.STEP, NO_LAYER, 366),
        *expected, (A.STEP, NO_LAYER, 361),
    ]  # fmt: skip
    assert spans["step"].tolist() == [0] * 10 + [1] * 9
    assert spans["tokens"].tolist() == [2] * 10 + [1] * 9


def test_a_full_cache_is_no_step(tiny_model: Any, open_model: Any) -> None:
    """Steps keep the numbers that the rounds give them."""
    model = open_model(tiny_model, max_tokens=128)
    recorder = model.forward.tracer = Recorder(1000)
    gather = LocalFfn(model.gather._graphs, recorder)

    def step(n: int, start: int) -> None:
        model.forward.step([Rows(SequenceId(0), [1] * n, start, 1)], gather)

    step(128, 0)
    step(100, 128)
    with pytest.raises(HaloError, match="KV cache is full"):
        step(100, 228)
    step(1, 228)
    spans = spans_of(recorder.data())
    steps = spans[spans["activity"] == A.STEP]
    assert steps[["step", "tokens"]].tolist() == [(0, 128), (1, 100), (2, 1)]
    assert np.count_nonzero(spans["activity"] == A.OWN_FFN) == 3 * model.params.n_layers


def test_sampling_follows_the_step(tiny_model: Any, open_model: Any) -> None:
    model = open_model(tiny_model)
    recorder = model.forward.tracer = Recorder(1000)
    engine = Engine(model.forward, model.gather, context=256, end_tokens=frozenset())
    sequence = engine.add(list(range(70)), SamplingParams(temperature=0, max_tokens=2))
    while sequence.finish is None:
        engine.step()
    spans = spans_of(recorder.data())
    last = spans[np.isin(spans["activity"], (A.STEP, A.SAMPLING))]
    assert last[["activity", "step"]].tolist() == [
        (A.STEP, 0),  # a part of the prompt: no token
        (A.STEP, 1), (A.SAMPLING, 1), (A.STEP, 2), (A.SAMPLING, 2),
    ]  # fmt: skip
    assert last["begin"][2] == last["end"][1]

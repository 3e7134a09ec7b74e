"""Milliseconds of each token, from timelines made by hand."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from halo_edge.cluster.trace_fetch import ClockOffset, DeviceTrace, Timeline
from halo_edge.cluster.trace_summary import token_times
from halo_edge.engine.trace import SPAN, Activity

A = Activity
AT_ROOT = [activity for activity in A if A.PREPARE <= activity <= A.ADD_PARTIALS]
AT_WORKER = (A.RECEIVE_X, A.FFN, A.SEND_PARTIAL)


def device(name: str, spans: list[tuple[int, int, int, int]], dropped: int = 0) -> DeviceTrace:
    """`spans`: (activity, step, tokens, ms)."""
    array = np.zeros(len(spans), SPAN)
    for fields, (activity, step, tokens, ms) in zip(array, spans, strict=True):
        fields["activity"], fields["step"], fields["tokens"] = activity, step, tokens
        fields["begin"], fields["end"] = 10**9, 10**9 + ms * 10**6
    return DeviceTrace(name, array, dropped, ClockOffset())


def root(n_steps: int, dropped: int = 0) -> DeviceTrace:
    """A prefill step of 7 tokens, then decode; every activity twice, of its own number in ms."""
    spans = []
    for step in range(n_steps):
        tokens = 1 if step else 7
        of_steps = [a for a in AT_ROOT if a is not A.SAMPLING]
        spans += [(a, step, tokens, int(a)) for a in of_steps * 2]
        spans += [(A.STEP, step, tokens, 2 * sum(of_steps)), (A.SAMPLING, step, tokens, A.SAMPLING)]
    return device("root", spans, dropped)


def worker(name: str, n_steps: int, dropped: int = 0) -> DeviceTrace:
    spans = [(a, step, 1, int(a)) for step in range(n_steps) for a in (*AT_WORKER, A.ROUND) * 2]
    return device(name, spans, dropped)


def test_tokens_of_decode() -> None:
    tokens = token_times(Timeline((root(3), worker("w1", 3), worker("w2", 3))))
    assert [token.step for token in tokens] == [1, 2]
    token = tokens[0]
    assert token.ms == pytest.approx(sum(dataclasses.astuple(token.root)))
    assert token.root.attention_ms == pytest.approx(2 * A.ATTENTION)
    assert token.root.sampling_ms == pytest.approx(A.SAMPLING)
    assert token.root.serial_ms == pytest.approx(
        2 * (A.PREPARE + A.EMBED + A.ATTENTION + A.HEAD) + A.SAMPLING
    )
    assert token.root.packing_ms == pytest.approx(2 * (A.ENCODE_X + A.SEND_X))
    assert [w.worker for w in token.workers] == ["w1", "w2"]
    assert dataclasses.astuple(token.workers[1])[1:] == pytest.approx([2 * a for a in AT_WORKER])


def test_steps_that_were_cut_off_are_left_out() -> None:
    timeline = Timeline((root(9), worker("w1", 9), worker("w2", 5, dropped=1)))
    assert [token.step for token in token_times(timeline)] == [1, 2, 3]
    assert [token.step for token in token_times(Timeline((root(4, dropped=2),)))] == [1, 2]


def test_nothing_recorded() -> None:
    assert token_times(Timeline((device("root", []), device("w1", [])))) == []
    assert token_times(Timeline((device("root", [], dropped=9),))) == []
    assert token_times(Timeline((root(3), device("w1", [], dropped=9)))) == []

"""Another device's clock and spans, on ours."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from halo_edge.cluster import control
from halo_edge.cluster.messages import WORKER_SPANS, ClockReply, TraceReply, encode
from halo_edge.cluster.trace_fetch import EXCHANGES, compare_clocks, fetch_trace, root_trace
from halo_edge.engine.trace import SPAN, Recorder
from halo_edge.errors import HaloError

DELAY_NS = st.integers(0, 10**9)


@given(
    st.integers(-(1 << 50), 1 << 50),
    st.lists(st.tuples(DELAY_NS, DELAY_NS), min_size=EXCHANGES, max_size=EXCHANGES),
)
def test_the_truth_is_within_the_uncertainty(ahead: int, delays: list[tuple[int, int]]) -> None:
    """However differently long the two ways take; and the shortest round trip decides."""
    now, ways = 1 << 51, list(delays)

    def ask() -> int:
        nonlocal now
        there, back = ways.pop()
        now += there + back
        return now - back + ahead

    found = compare_clocks(ask, lambda: now)
    shortest = min(there + back for there, back in delays)
    assert abs(found.offset_ns - ahead) <= found.uncertainty_ns
    assert found.uncertainty_ns == (shortest + 1) // 2


class Answers:
    """A worker whose clock is 10 s ahead of a clock that stands still."""

    def __init__(self, trace: bytes) -> None:
        self._trace = trace

    def __call__(self, session: Any, key: str, question: bytes, timeout_s: float) -> bytes:
        assert key.startswith("halo/here/worker/w1/")
        return encode(ClockReply(17 * 10**9)) if key.endswith("/clock") else self._trace


def fetch(monkeypatch: pytest.MonkeyPatch, trace: bytes) -> Any:
    monkeypatch.setattr(control, "ask", Answers(trace))
    monkeypatch.setattr(
        "halo_edge.cluster.trace_fetch.compare_clocks",
        lambda ask: compare_clocks(ask, lambda: 7 * 10**9),
    )
    session: Any = None
    return fetch_trace(session, "here", "w1", "s1")


def test_spans_on_our_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    spans = np.zeros(2, SPAN)
    spans["activity"] = 1
    spans["begin"], spans["end"] = (11 * 10**9, 9 * 10**9), 12 * 10**9
    device = fetch(monkeypatch, encode(TraceReply("s1", spans.tobytes(), 3)))
    assert device.spans["begin"].tolist() == [10**9, -(10**9)]
    assert device.spans["end"].tolist() == [2 * 10**9] * 2
    assert (device.name, device.dropped, device.clock.offset_ns) == ("w1", 3, 10**10)


@pytest.mark.parametrize(
    ("trace", "message"),
    [
        (b"{", "w1 sent a malformed TraceReply"),
        (encode(TraceReply("s1", b"x")), "w1 sent a malformed trace"),
        (encode(TraceReply("s1", bytes(SPAN.itemsize))), "w1 sent a malformed trace"),
        (
            encode(TraceReply("s1", bytes((WORKER_SPANS + 1) * SPAN.itemsize))),
            "w1 sent a malformed TraceReply",
        ),
        (encode(TraceReply("s2")), "worker w1 has another root by now"),
        (encode(TraceReply()), "worker w1 has another root by now"),
    ],
)
def test_answers_that_are_no_trace(
    monkeypatch: pytest.MonkeyPatch, trace: bytes, message: str
) -> None:
    with pytest.raises(HaloError, match=message):
        fetch(monkeypatch, trace)


def test_the_roots_own() -> None:
    recorder = Recorder(0)
    recorder.begin_step(1)
    recorder.end_step()
    device = root_trace(recorder)
    assert (device.name, len(device.spans), device.dropped) == ("root", 0, 1)

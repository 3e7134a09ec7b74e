"""What Perfetto is given. Its format: "Trace Event Format", Google, 2016 (the JSON object form)."""

from __future__ import annotations

import io
import json
from typing import Any

import numpy as np

from halo_edge.cluster.trace_fetch import ClockOffset, DeviceTrace, Timeline
from halo_edge.cluster.trace_file import LABELS, LANES, write_trace
from halo_edge.engine.trace import NO_LAYER, SPAN, Activity

US = 1000


def device(name: str, *spans: tuple[int, ...], dropped: int = 0) -> DeviceTrace:
    """`spans`: (activity, begin, end, layer)."""
    array = np.zeros(len(spans), SPAN)
    for fields, values in zip(array, spans, strict=True):
        for field, value in zip(("activity", "begin", "end", "layer"), values, strict=True):
            fields[field] = value
    array["wants"], array["retransmissions"], array["bytes"] = 1, 2, 3
    return DeviceTrace(name, array, dropped, ClockOffset(5 * US, 7 * US))


def written(*devices: DeviceTrace) -> Any:
    file = io.StringIO()
    write_trace(Timeline(devices), file)
    return json.loads(file.getvalue())


def test_events() -> None:
    trace = written(
        device("root", (Activity.EMBED, 5 * US, 8 * US + 1, NO_LAYER)),
        device("w1", (Activity.ROUND, 1 * US, 9 * US, 3), (Activity.FFN, 2 * US, 4 * US, 3)),
    )
    events = trace["traceEvents"]
    spans = [event for event in events if event["ph"] == "X"]
    assert [(s["name"], s["pid"], s["ts"], s["dur"]) for s in spans] == [
        ("embed", 1, 4.0, 3.001),
        ("round", 2, 0.0, 8.0),
        ("FFN", 2, 1.0, 2.0),
    ]
    assert [s["args"] for s in spans] == [
        {"step": 0, "tokens": 0},
        {"step": 0, "tokens": 0, "layer": 3, "wants": 1, "retransmissions": 2, "bytes": 3},
        {"step": 0, "tokens": 0, "layer": 3},
    ]
    names = {(e["pid"], e["tid"]): e["args"]["name"] for e in events if e["name"] == "thread_name"}
    assert [names[s["pid"], s["tid"]] for s in spans] == ["compute", "rounds", "compute"]
    processes = [e["args"]["name"] for e in events if e["name"] == "process_name"]
    assert processes == ["root", "w1"]


def test_what_the_clocks_are_worth() -> None:
    about = written(device("root"), device("w1", dropped=4))["otherData"]["devices"]
    assert about[1] == {
        "device": "w1",
        "spans": 0,
        "spans_dropped": 4,
        "clock_offset_us": 5.0,
        "clock_uncertainty_us": 7.0,
    }


def test_every_activity_has_a_place() -> None:
    assert set(LABELS) == set(Activity)
    assert {label.lane for label in LABELS.values()} == set(LANES)
    spans = [(activity, 1, 2, 0) for activity in Activity]
    assert len(written(device("root", *spans))["traceEvents"]) == 2 + 2 * len(LANES) + len(spans)

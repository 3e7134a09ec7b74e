"""A timeline as a file that https://ui.perfetto.dev and chrome://tracing open.

The format is Chrome's trace events as JSON: complete events (`X`) with microseconds since the first
span of any device, one process a device, one thread a lane. Spans of one lane never overlap.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, TextIO

from halo_edge import __version__
from halo_edge.cluster.trace_fetch import DeviceTrace, Timeline
from halo_edge.engine.trace import NO_LAYER, Activity

LANES: Final = ("steps", "rounds", "compute", "network")


@dataclass(frozen=True)
class Label:
    """How an activity is shown."""

    name: str
    lane: str


LABELS: Final = {
    Activity.STEP: Label("step", "steps"),
    Activity.ROUND: Label("round", "rounds"),
    Activity.PREPARE: Label("prepare", "compute"),
    Activity.EMBED: Label("embed", "compute"),
    Activity.ATTENTION: Label("attention", "compute"),
    Activity.HEAD: Label("head", "compute"),
    Activity.SAMPLING: Label("sampling", "compute"),
    Activity.ENCODE_X: Label("encode x", "network"),
    Activity.SEND_X: Label("send x", "network"),
    Activity.OWN_FFN: Label("own FFN", "compute"),
    Activity.RECEIVE_PARTIALS: Label("receive partials", "network"),
    Activity.WAIT: Label("wait", "network"),
    Activity.ADD_PARTIALS: Label("add partials", "compute"),
    Activity.RECEIVE_X: Label("receive x", "network"),
    Activity.FFN: Label("FFN", "compute"),
    Activity.SEND_PARTIAL: Label("send partial", "network"),
    Activity.STAND_IN: Label("stand in", "compute"),
    Activity.LEARN: Label("learn", "compute"),
}


def write_trace(timeline: Timeline, file: TextIO) -> None:
    """Raises OSError where `file` cannot be written."""
    file.write('{"displayTimeUnit":"ms","otherData":')
    file.write(json.dumps(_about(timeline)))
    file.write(',"traceEvents":[\n')
    begins = [int(d.spans["begin"].min()) for d in timeline.devices if len(d.spans)]
    origin = min(begins, default=0)
    separator = ""
    for process, device in enumerate(timeline.devices, 1):
        for event in _events(device, process, origin):
            file.write(separator + event)
            separator = ",\n"
    file.write("\n]}\n")


def _about(timeline: Timeline) -> dict[str, object]:
    """What the clocks are worth, and what is missing."""
    devices = [
        {
            "device": device.name,
            "spans": len(device.spans),
            "spans_dropped": device.dropped,
            "clock_offset_us": device.clock.offset_ns / 1e3,
            "clock_uncertainty_us": device.clock.uncertainty_ns / 1e3,
        }
        for device in timeline.devices
    ]
    return {"version": f"halo-edge {__version__}", "devices": devices}


def _events(device: DeviceTrace, process: int, origin: int) -> Iterator[str]:
    """The events of one device, each as JSON."""

    def metadata(what: str, thread: int, key: str, value: object) -> str:
        event = {"ph": "M", "name": what, "pid": process, "tid": thread, "args": {key: value}}
        return json.dumps(event)

    yield metadata("process_name", 0, "name", device.name)
    yield metadata("process_sort_index", 0, "sort_index", process)
    threads = {lane: thread for thread, lane in enumerate(LANES, 1)}
    used = {LABELS[Activity(a)].lane for a in set(device.spans["activity"].tolist())}
    for lane in sorted(used, key=LANES.index):
        yield metadata("thread_name", threads[lane], "name", lane)
        yield metadata("thread_sort_index", threads[lane], "sort_index", threads[lane])
    heads = {
        int(activity): f'{{"ph":"X","name":"{label.name}","pid":{process},'
        f'"tid":{threads[label.lane]}'
        for activity, label in LABELS.items()
    }
    # By hand: a hundred thousand of them through json.dumps take seconds.
    for span in device.spans.tolist():
        begin, end, step, layer, tokens, activity, _, wants, retransmissions, nbytes = span
        args = f'"step":{step},"tokens":{tokens}'
        if layer != NO_LAYER:
            args += f',"layer":{layer}'
        if activity == Activity.ROUND:
            args += f',"wants":{wants},"retransmissions":{retransmissions},"bytes":{nbytes}'
        ts, duration = (begin - origin) / 1e3, (end - begin) / 1e3
        yield f'{heads[activity]},"ts":{ts:.3f},"dur":{duration:.3f},"args":{{{args}}}}}'

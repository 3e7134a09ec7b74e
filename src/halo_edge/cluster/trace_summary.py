"""What a timeline says about the tokens of decode: milliseconds of each, by device and activity."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from halo_edge.cluster.trace_fetch import DeviceTrace, Timeline
from halo_edge.engine.trace import Activity


@dataclass(frozen=True)
class RootTime:
    """Milliseconds of one token at the root, which add up to all of it."""

    prepare_ms: float
    embed_ms: float
    attention_ms: float
    head_ms: float
    sampling_ms: float
    encode_ms: float
    send_ms: float
    own_ffn_ms: float
    wait_ms: float
    receive_ms: float
    add_ms: float

    @property
    def serial_ms(self) -> float:
        """What the root does alone, however many workers there are."""
        return self.prepare_ms + self.embed_ms + self.attention_ms + self.head_ms + self.sampling_ms

    @property
    def packing_ms(self) -> float:
        """x on its way to the workers."""
        return self.encode_ms + self.send_ms


@dataclass(frozen=True)
class WorkerTime:
    """Milliseconds of one token at a worker: x from each round's first chunk to its last, its FFN,
    and its partials. In the rest it has nothing to do."""

    worker: str
    receive_ms: float
    compute_ms: float
    send_ms: float


@dataclass(frozen=True)
class TokenTime:
    """One token of decode. `ms`: its step and its sampling."""

    step: int
    ms: float
    root: RootTime
    workers: tuple[WorkerTime, ...]


def token_times(timeline: Timeline) -> list[TokenTime]:
    """The steps of one token that every device recorded to the end, in order."""
    root, *workers = timeline.devices
    ended = root.spans[root.spans["activity"] == Activity.STEP]
    n_steps = int(ended["step"].max(initial=0)) + 1
    for device in timeline.devices:
        if device.dropped:  # the last step it has, it may not have all of
            n_steps = min(n_steps, int(device.spans["step"].max(initial=0)))
    at_root = _per_step(root, n_steps)
    at_workers = [(worker.name, _per_step(worker, n_steps)) for worker in workers]
    single = ended["step"][(ended["tokens"] == 1) & (ended["step"] < n_steps)]
    return [
        TokenTime(
            step=step,
            ms=float(at_root[step, Activity.STEP] + at_root[step, Activity.SAMPLING]),
            root=_root_time(at_root[step]),
            workers=tuple(_worker_time(name, times[step]) for name, times in at_workers),
        )
        for step in single.tolist()
    ]


def _per_step(device: DeviceTrace, n_steps: int) -> NDArray[np.float64]:
    """f64[n_steps, activities], ms."""
    spans: NDArray[Any] = device.spans[device.spans["step"] < n_steps]
    times = np.zeros((n_steps, max(Activity) + 1))
    np.add.at(times, (spans["step"], spans["activity"]), (spans["end"] - spans["begin"]) / 1e6)
    return times


def _root_time(ms: NDArray[np.float64]) -> RootTime:
    return RootTime(
        prepare_ms=float(ms[Activity.PREPARE]),
        embed_ms=float(ms[Activity.EMBED]),
        attention_ms=float(ms[Activity.ATTENTION]),
        head_ms=float(ms[Activity.HEAD]),
        sampling_ms=float(ms[Activity.SAMPLING]),
        encode_ms=float(ms[Activity.ENCODE_X]),
        send_ms=float(ms[Activity.SEND_X]),
        own_ffn_ms=float(ms[Activity.OWN_FFN] + ms[Activity.STAND_IN]),
        wait_ms=float(ms[Activity.WAIT]),
        receive_ms=float(ms[Activity.RECEIVE_PARTIALS]),
        add_ms=float(ms[Activity.ADD_PARTIALS] + ms[Activity.LEARN]),
    )


def _worker_time(worker: str, ms: NDArray[np.float64]) -> WorkerTime:
    return WorkerTime(
        worker=worker,
        receive_ms=float(ms[Activity.RECEIVE_X]),
        compute_ms=float(ms[Activity.FFN]),
        send_ms=float(ms[Activity.SEND_PARTIAL]),
    )

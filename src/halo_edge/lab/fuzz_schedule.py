"""A fault schedule: a small cluster, what its links do, and what happens to it when, from a seed.

Whatever is drawn here stays within what the protocol must live with: at most 60 % of the datagrams
between two devices lost, faults that end, computations far shorter than the stall timeout.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, replace
from typing import Final

from halo_edge.lab.link import Burst, LinkSettings
from halo_edge.lab.spec import Action, DeviceSpec, Event, LabSpec
from halo_edge.sync.layout import RoundLayout

MAX_LOSS: Final = 0.6
MAX_WORKERS: Final = 5
MAX_ROUNDS: Final = 5
# Of a matrix; a few windows.
MAX_CHUNKS: Final = 48
STALL_TIMEOUT_S: Final = 30.0
LONGEST_FAULT_S: Final = 8.0  # but for those that outlast the stall timeout
_SIDES: Final = 2  # a datagram passes two links
_BLOCKS: Final = (2, 34)


@dataclass(frozen=True)
class RoundPlan:
    """`pause_s`: before it, the root's attention."""

    tokens: int
    pause_s: float


@dataclass(frozen=True)
class Schedule:
    """`lab`: the links, and the faults as events. `compute_s`: of each device, of its FFN.
    `datagram_s`: CPU time of a datagram sent or received. `inbox`: datagrams that fit. `take_over`:
    the root does the work of devices that are away. `impatience`: how often it goes on without what
    is overdue."""

    lab: LabSpec
    layout: RoundLayout
    rounds: tuple[RoundPlan, ...]
    compute_s: tuple[float, ...]
    datagram_s: float
    inbox: int
    take_over: bool = False
    impatience: float = 0.0


def schedule_of(seed: int) -> Schedule:
    """The same seed gives the same schedule."""
    rng = random.Random(f"schedule {seed}")
    layout = _layout(rng)
    hasty = rng.random() < 0.2  # one round upon the other, so that they meet on the way
    n = rng.randint(1, 2 if hasty else MAX_WORKERS)
    names = [f"n{i}" for i in range(n + 1)]
    link = _disorder if hasty else _link
    root_link = _link(rng) if rng.random() < 0.2 else LinkSettings()
    devices = [DeviceSpec(names[0], up=root_link, down=root_link)]
    for name in names[1:]:
        up = link(rng)
        down = link(rng) if rng.random() < 0.3 else up
        devices.append(DeviceSpec(name, up=up, down=down))
    events = sorted(_faults(rng, names), key=lambda event: event.at_s)
    compute_s = tuple(rng.choice((0.0, 1.0)) * 10 ** rng.uniform(-4, -1) for _ in names)
    chunks = layout.x_grid().n_chunks(layout.max_tokens)
    return Schedule(
        lab=LabSpec("fuzz", tuple(devices), seed, tuple(events)),
        layout=layout,
        rounds=_hasty_rounds(rng, layout) if hasty else _rounds(rng, layout),
        compute_s=(0.0,) * len(names) if hasty else compute_s,
        datagram_s=rng.choice((0.0, 0.00002, 0.0001)),
        inbox=rng.choice((4096, max(8, n * chunks))),
        take_over=rng.random() < 0.3,
        impatience=rng.choice((0.0, 0.0, rng.random())),
    )


def _rounds(rng: random.Random, layout: RoundLayout) -> tuple[RoundPlan, ...]:
    return tuple(
        RoundPlan(rng.choice((1, rng.randint(1, layout.max_tokens))), rng.choice((0.0, 0.002)))
        for _ in range(rng.randint(2, MAX_ROUNDS))
    )


def _hasty_rounds(rng: random.Random, layout: RoundLayout) -> tuple[RoundPlan, ...]:
    """Of equal size, as chunks of one would fit into the next."""
    return (RoundPlan(rng.randint(1, layout.max_tokens), 0.0),) * (2 * MAX_ROUNDS)


def _layout(rng: random.Random) -> RoundLayout:
    block, max_payload = rng.choice(_BLOCKS), rng.randint(60, 400)
    x_row, partial_row = (block * rng.randint(-(-68 // block), 680 // block) for _ in range(2))
    pieces = max(-(-row // (max_payload // block * block)) for row in (x_row, partial_row))
    return RoundLayout(
        n_layers=3,
        max_tokens=rng.randint(1, max(1, min(16, MAX_CHUNKS // pieces))),
        x_row_bytes=x_row,
        x_block_bytes=block,
        partial_row_bytes=partial_row,
        partial_block_bytes=block,
        max_payload=max_payload,
        window=rng.choice((1, 4, 16, 64)),
    )


def _link(rng: random.Random) -> LinkSettings:
    """One side of a way. What is lost or damaged on both sides together is at most `MAX_LOSS`."""
    most = 1 - (1 - MAX_LOSS) ** (1 / _SIDES)
    bad = rng.choice((0.0, rng.uniform(0, most), most))
    loss = bad * rng.choice((1.0, rng.random()))
    settings = LinkSettings(
        loss=loss,
        corrupt=1 - (1 - bad) / (1 - loss),
        delay_ms=rng.choice((0.0, 10 ** rng.uniform(-1, 1.3))),
        jitter_ms=rng.choice((0.0, 10 ** rng.uniform(-1, 1.3))),
        reorder=rng.choice((0.0, rng.random())),
        duplicate=rng.choice((0.0, rng.uniform(0, 0.5))),
    )
    if rng.random() < 0.2:
        burst = Burst(good_ms=rng.uniform(20, 400), bad_ms=rng.uniform(2, 60))
        settings = replace(settings, burst=burst)
    if rng.random() < 0.15:
        rate_mbit, queue_ms = rng.uniform(4, 50), rng.uniform(10, 100)
        settings = replace(settings, rate_mbit=rate_mbit, queue_ms=queue_ms)
    return settings


def _disorder(rng: random.Random) -> LinkSettings:
    """One side of a way on which hardly anything keeps its place."""
    return replace(_link(rng), delay_ms=0.0, jitter_ms=rng.uniform(5, 60), reorder=1.0)


def _faults(rng: random.Random, names: list[str]) -> list[Event]:
    events: list[Event] = []
    for _ in range(rng.choice((0, 0, 1, 1, 2, 3))):
        at_s = 10 ** rng.uniform(-3, 0.5)
        lasts_s = 10 ** rng.uniform(-3, math.log10(LONGEST_FAULT_S))
        if rng.random() < 0.1:
            lasts_s = 1.3 * STALL_TIMEOUT_S
        ends_s = at_s + lasts_s
        worker = rng.choice(names[1:])
        kind = rng.choice(("cut", "stop", "restart", "slow", "link", "root"))
        if kind == "cut":
            events += _pair(Action.CUT, Action.JOIN, worker, at_s, ends_s)
        elif kind == "root":
            events += _pair(Action.CUT, Action.JOIN, names[0], at_s, ends_s)
        elif kind == "stop":
            events += _pair(Action.STOP, Action.CONTINUE, worker, at_s, ends_s)
        elif kind == "restart":
            events.append(Event(at_s, Action.RESTART, worker))
        elif kind == "slow":
            events.append(Event(at_s, Action.SPEED, worker, speed=rng.uniform(0.1, 1)))
        else:  # a spike of delay, or whatever else
            spike = LinkSettings(delay_ms=rng.uniform(20, 150))
            events.append(Event(at_s, Action.LINK, worker, link=rng.choice((spike, _link(rng)))))
            events.append(Event(ends_s, Action.LINK, worker, link=_link(rng)))
    return events


def _pair(
    begin: Action, end: Action, device: str, at_s: float, ends_s: float
) -> tuple[Event, Event]:
    return Event(at_s, begin, device), Event(ends_s, end, device)

"""A link's settings as the kernel's netem takes them: a mapping of numbers, without a kernel.

One direction is a qdisc of netem at the sender's interface, with loss, delay and the like; where
there is a rate, a second one in it, so that what overflows its queue can be told from what is lost.
What netem does was read from the kernel's net/sched/sch_netem.c.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from halo_edge.lab.link import LinkSettings

TICK_NS: Final = 64  # the unit of time of the kernel's packet schedulers
CERTAIN: Final = 2**32 - 1  # a probability of 1, and the highest rate (bytes/s)
FRAME_BYTES: Final = 1514  # a queue is counted in frames of full size
# Frames in one direction of a link; those of full size would take some 250 MB of the kernel's.
MAX_FRAMES: Final = 100_000
MAX_JITTER_MS: Final = 4000.0  # twice its half, in ns, must fit 32 bits
MIN_RATE_MBIT: Final = 0.001
# A burst begins and ends with a message to the kernel. Shorter ones would blur.
MIN_BURST_MS: Final = 1.0


@dataclass(frozen=True)
class Netem:
    """A qdisc's parameters, in the kernel's units: ticks; frames; shares of `CERTAIN`; bytes/s,
    0 for no limit."""

    delay: int = 0
    jitter: int = 0
    limit: int = MAX_FRAMES
    loss: int = 0
    duplicate: int = 0
    corrupt: int = 0
    rate: int = 0


def expressible(settings: LinkSettings) -> str | None:
    """Why netem cannot do what `settings` say, or None where it can."""
    if settings.jitter_ms and 0 < settings.reorder < 1:
        return "netem lets all packets overtake or none: reorder is 0 or 1"
    if settings.jitter_ms > MAX_JITTER_MS:
        return f"netem's jitter_ms goes up to {MAX_JITTER_MS:.0f}"
    if settings.rate_mbit is not None:
        if settings.duplicate:
            return "netem does not repeat packets on a link with a rate"
        if settings.rate_mbit < MIN_RATE_MBIT:
            return f"netem's rate_mbit begins at {MIN_RATE_MBIT}"
    burst = settings.burst
    if burst is not None and min(burst.good_ms, burst.bad_ms) < MIN_BURST_MS:
        return f"netem's bursts, and the time between them, last {MIN_BURST_MS:g} ms or more"
    return None


def impairment(settings: LinkSettings, bad: bool) -> Netem:
    """The outer qdisc. `bad`: the link is in a burst. `settings` are `expressible`."""
    loss = 1 - (1 - settings.loss) * (1 - _burst_loss(settings, bad))
    if settings.cut:
        loss = 1.0
    # netem first decides whether to repeat a packet, and then loses one of the two.
    duplicate = min(settings.duplicate, 1 - loss)
    jitter_ms = settings.jitter_ms / 2  # netem's jitter is to both sides of its delay
    delayed = settings.delay_ms > 0 or settings.jitter_ms > 0
    return Netem(
        delay=_ticks(settings.delay_ms + jitter_ms),
        jitter=_ticks(jitter_ms),
        loss=_share(loss / (1 - duplicate)) if loss else 0,
        duplicate=_share(duplicate),
        corrupt=_share(settings.corrupt),
        # With a rate, however high, a packet leaves after the one before it.
        rate=CERTAIN if delayed and not settings.reorder else 0,
    )


def queue(settings: LinkSettings) -> Netem | None:
    """The inner qdisc. None: there is no rate, and no need of it."""
    if settings.rate_mbit is None:
        return None
    bytes_a_second = settings.rate_mbit * 125_000
    waiting = math.ceil(settings.queue_ms / 1e3 * bytes_a_second / FRAME_BYTES)
    return Netem(
        limit=min(1 + waiting, MAX_FRAMES), rate=min(max(1, round(bytes_a_second)), CERTAIN)
    )


def _burst_loss(settings: LinkSettings, bad: bool) -> float:
    return settings.burst.loss if bad and settings.burst is not None else 0.0


def _ticks(ms: float) -> int:
    return round(ms * 1e6 / TICK_NS)


def _share(probability: float) -> int:
    return round(min(probability, 1.0) * CERTAIN)

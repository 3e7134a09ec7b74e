"""The process that keeps the links of a lab where the kernel's netem makes them.

It makes the bridge and the qdiscs, switches the loss of links in bursts (which netem knows only by
packets, not by time), and answers at the control socket as the forwarder does. Packets do not pass
through it.
"""

from __future__ import annotations

import contextlib
import ctypes
import math
import os
import random
import select
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import msgspec

from halo_edge.errors import HaloError
from halo_edge.lab.bridge import Bridge
from halo_edge.lab.control_server import ControlServer
from halo_edge.lab.forwarder import (
    LATE_S,
    PR_SET_PDEATHSIG,
    PR_SET_TIMERSLACK,
    READY,
    PortStart,
)
from halo_edge.lab.forwarder_control import DeviceStatus, Failed, Reply, Request, SetLink, Status
from halo_edge.lab.link import BurstState, LinkCounters, LinkSettings
from halo_edge.lab.namespaces import inside
from halo_edge.lab.netem import Netem, expressible, impairment, queue
from halo_edge.lab.qdisc import Books, Qdiscs


class NetemStart(msgspec.Struct, frozen=True, kw_only=True):
    """`control`: the path of its socket; `parent`: the process with which it ends."""

    seed: int
    interface: str
    ports: list[PortStart]
    control: str
    parent: int

    def command(self) -> list[str]:
        """The command line that starts it. It says `READY` on its standard output."""
        arguments = msgspec.json.encode(self).decode()
        return [sys.executable, "-m", "halo_edge.lab.netem_links", arguments]


class Direction:
    """One direction of a device's link: its qdiscs do what its settings say. Raises OSError."""

    def __init__(self, settings: LinkSettings, seed: str, qdiscs: Qdiscs, now: float) -> None:
        self._qdiscs = qdiscs
        self._burst = BurstState(random.Random(seed))
        self._outer: Netem | None = None
        self._inner: Netem | None = None
        self._outer_books = self._inner_books = Books()
        self._counters = LinkCounters()
        self._set(settings, now)

    def change(self, settings: LinkSettings, now: float) -> None:
        self._count()
        self._set(settings, now)

    def _set(self, settings: LinkSettings, now: float) -> None:
        self.settings = settings
        inner = queue(settings)
        # In this order: newer kernels let none repeat packets while there are two.
        if inner is None and self._inner is not None:
            self._qdiscs.remove_inner()
            self._inner_books = Books()
        self.follow(now)
        if inner is not None:
            self._qdiscs.set_inner(inner)
        self._inner = inner

    def follow(self, now: float) -> bool:
        """Set the loss of the moment. Whether it was another."""
        burst = self.settings.burst
        outer = impairment(self.settings, burst is not None and self._burst.bad(burst, now))
        if outer == self._outer:
            return False
        self._qdiscs.set_outer(outer)
        self._outer = outer
        return True

    @property
    def changes_at(self) -> float:
        """When to call `follow`."""
        return math.inf if self.settings.burst is None else self._burst.changes_at

    def counters(self) -> LinkCounters:
        """A packet that was repeated was offered twice."""
        self._count()
        return replace(self._counters)

    def _count(self) -> None:
        inner = Books() if self._inner is None else self._qdiscs.inner_books()
        outer = self._qdiscs.outer_books()
        overflowed = inner.dropped - self._inner_books.dropped
        lost = outer.dropped - self._outer_books.dropped - overflowed
        self._inner_books, self._outer_books = inner, outer
        counters = self._counters
        counters.offered = outer.sent + outer.dropped + outer.waiting
        counters.overflowed += overflowed
        if self.settings.cut:
            counters.cut += lost
        else:
            counters.lost += lost


class NetemLinks:
    """The links of all devices. Raises `HaloError`."""

    def __init__(self, start: NetemStart) -> None:
        bridge = Bridge()
        qdiscs: dict[str, tuple[Qdiscs, Qdiscs]] = {}
        for port in start.ports:
            there, here = bridge.join(port.namespace, start.interface, port.mac)
            with inside(port.namespace):
                at_device = Qdiscs(there)
            qdiscs[port.device] = at_device, Qdiscs(here)
        now = time.monotonic()  # bursts begin when all is there
        self._links: dict[str, tuple[Direction, Direction]] = {}
        for port in start.ports:
            up, down = qdiscs[port.device]
            name = f"{start.seed}/{port.device}"
            self._links[port.device] = (
                Direction(port.up, f"{name}/up", up, now),
                Direction(port.down, f"{name}/down", down, now),
            )
        self._bridge = bridge
        self._began, self._cpu_began = time.monotonic(), time.process_time()
        self._switched = 0
        self._late = 0
        self._worst_late_s = 0.0

    def run(self, control: ControlServer) -> None:
        """Until SystemExit. Raises OSError."""
        ways = [way for link in self._links.values() for way in link]
        while True:
            wait_s = self._follow(ways)
            for source in select.select(control.sources, (), (), wait_s)[0]:
                control.serve(source, lambda request: msgspec.json.encode(self.handle(request)))

    def handle(self, message: bytes) -> Reply:
        """Do what a request says. In the status, `frames` are beginnings and ends of bursts."""
        try:
            request = msgspec.json.decode(message, type=Request)
            if isinstance(request, SetLink):
                self._change(request)
            return self._status()
        except (msgspec.DecodeError, ValueError, RecursionError) as error:
            return Failed(f"not a request: {error}")
        except (HaloError, OSError) as error:
            return Failed(str(error))

    def _change(self, request: SetLink) -> None:
        link = self._links.get(request.device)
        if link is None:
            raise HaloError(f"no device {request.device!r}")
        both = (request.up, request.down)
        for settings in both:
            if reason := expressible(settings):
                raise HaloError(f"{reason}; fabric = 'forwarder' in the lab's description can")
        now = time.monotonic()
        for way, settings in zip(link, both, strict=True):
            way.change(settings, now)

    def _follow(self, ways: list[Direction]) -> float | None:
        """Switch what is due. Seconds until the next time, None if there is none."""
        for way in ways:
            due, now = way.changes_at, time.monotonic()
            if due <= now and way.follow(now):
                late_s = time.monotonic() - due
                self._switched += 1
                self._late += late_s > LATE_S
                self._worst_late_s = max(self._worst_late_s, late_s)
        next_due = min(way.changes_at for way in ways)
        return None if next_due == math.inf else max(0.0, next_due - time.monotonic())

    def _status(self) -> Status:
        elapsed_s = max(time.monotonic() - self._began, 1e-9)
        cpu_s = time.process_time() - self._cpu_began
        return Status(
            devices={
                device: DeviceStatus(up.settings, down.settings, up.counters(), down.counters())
                for device, (up, down) in self._links.items()
            },
            frames=self._switched,
            late=self._late,
            worst_late_s=self._worst_late_s,
            cpu_s=cpu_s,
            busy=cpu_s / elapsed_s,
            overflowed=0,
        )


def _terminate(*_: object) -> NoReturn:
    raise SystemExit(0)


def _be_prompt() -> None:
    """Exact timers, and, where that is allowed, precedence over what the lab computes."""
    ctypes.CDLL(None).prctl(PR_SET_TIMERSLACK, 1)
    with contextlib.suppress(OSError):
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))


def main() -> None:
    start = msgspec.json.decode(sys.argv[1], type=NetemStart)
    signal.signal(signal.SIGTERM, _terminate)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the command in the lab
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != start.parent:  # it died before we could ask
        sys.exit(1)
    try:
        links, control = NetemLinks(start), ControlServer(Path(start.control))
        _be_prompt()
        print(READY, flush=True)
        links.run(control)
    except (HaloError, OSError) as error:
        sys.exit(f"halo: {error}")


if __name__ == "__main__":
    main()

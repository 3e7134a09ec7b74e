"""The links of devices in a star, in virtual time.

A frame passes its sender's link up, then its receiver's link down, as in `switch.py`, and waits in
the receiver's inbox.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

import simpy

from halo_edge.lab.link import Link, LinkSettings
from halo_edge.lab.sim_cpu import SharedThread
from halo_edge.lab.sim_inbox import Inbox
from halo_edge.lab.sim_thread import Process
from halo_edge.lab.sim_trace import SimTrace

FRAME_HEADERS: Final = 42  # Ethernet 14, IPv4 20, UDP 8
HEADER_BITS: Final = 8 * FRAME_HEADERS
Damage = Callable[[bytes, int], bytes | None]
"""What arrives of a datagram of which that bit (counted from its own first byte; 0 for those of the
headers before it) was flipped; None: the kernel drops it."""


def checksum(datagram: bytes, bit: int) -> bytes | None:
    """As a kernel does: UDP's checksum does not fit."""
    return None


class Forwarder:
    """The process that every frame of a lab passes through: once in, once out, in order."""

    def __init__(self, env: simpy.Environment, thread: SharedThread, frame_s: float) -> None:
        """`frame_s`: CPU time of a frame, in and out together."""
        self._thread = thread
        self._pass_s = frame_s / 2
        self._jobs: deque[Callable[[], None]] = deque()
        self._env = env
        self._wake: simpy.Event | None = None
        env.process(self._run())

    def handle(self, job: Callable[[], None]) -> None:
        self._jobs.append(job)
        if self._wake is not None:
            self._wake.succeed()
            self._wake = None

    def _run(self) -> Process:
        while True:
            while self._jobs:
                yield from self._thread.run(self._pass_s)
                self._jobs.popleft()()
            self._thread.block()
            self._wake = self._env.event()
            yield self._wake


@dataclass
class Port:
    """Where a device is plugged in. `inbox` may be replaced, e.g. by that of a new process."""

    name: str
    up: Link
    down: Link
    inbox: Inbox

    def cut(self, cut: bool) -> None:
        """Pull the plug, or put it in again."""
        for link in (self.up, self.down):
            link.settings = replace(link.settings, cut=cut)

    def change(self, settings: LinkSettings) -> None:
        """Other settings each way, but for being cut."""
        for link in (self.up, self.down):
            link.settings = replace(settings, cut=link.settings.cut)


class Network:
    """Ports are named by their index. `damage`: what becomes of damaged datagrams."""

    def __init__(
        self,
        env: simpy.Environment,
        ports: Sequence[Port],
        trace: SimTrace,
        damage: Damage = checksum,
        forwarder: Forwarder | None = None,
    ) -> None:
        """`forwarder`: None where links cost no CPU time."""
        self._env = env
        self.ports = list(ports)
        self._trace = trace
        self._damage = damage
        self._forwarder = forwarder
        self.under_way = 0
        """Datagrams on their way now."""

    def send(self, sender: int, receiver: int, datagram: bytes) -> None:
        """A device sends a datagram now."""
        port = self.ports[sender]
        self._trace.sent(self._env.now, port.name, self.ports[receiver].name, len(datagram))
        self.under_way += 1
        if self._forwarder is None:
            self._pass(port.up, sender, receiver, datagram, self._at_switch)
        else:
            self._forwarder.handle(
                partial(self._pass, port.up, sender, receiver, datagram, self._at_switch)
            )

    def _at_switch(self, sender: int, receiver: int, datagram: bytes) -> None:
        self._pass(self.ports[receiver].down, sender, receiver, datagram, self._arrive)

    def _pass(self, link: Link, sender: int, receiver: int, datagram: bytes, then: _Then) -> None:
        env = self._env
        now = env.now
        arrivals = link.send(len(datagram) + FRAME_HEADERS, now)
        self.under_way += len(arrivals) - 1
        if not arrivals:
            self._lost(sender, receiver, datagram)
        for at, bit in arrivals:
            passed = datagram if bit < 0 else self._damage(datagram, max(0, bit - HEADER_BITS))
            if passed is None:
                self.under_way -= 1
                self._lost(sender, receiver, datagram)
            elif at <= now:
                then(sender, receiver, passed)
            else:
                event = env.timeout(at - now)
                assert event.callbacks is not None
                event.callbacks.append(partial(self._later, then, sender, receiver, passed))

    def _later(
        self, then: _Then, sender: int, receiver: int, datagram: bytes, _: simpy.Event
    ) -> None:
        then(sender, receiver, datagram)

    def _arrive(self, sender: int, receiver: int, datagram: bytes) -> None:
        self.under_way -= 1
        if self._forwarder is None:
            self._deliver(sender, receiver, datagram)
        else:
            self._forwarder.handle(partial(self._deliver, sender, receiver, datagram))

    def _deliver(self, sender: int, receiver: int, datagram: bytes) -> None:
        port = self.ports[receiver]
        if port.inbox.put(datagram):
            self._trace.arrived(self._env.now, self.ports[sender].name, port.name, len(datagram))
        else:
            self._lost(sender, receiver, datagram)

    def _lost(self, sender: int, receiver: int, datagram: bytes) -> None:
        names = self.ports[sender].name, self.ports[receiver].name
        self._trace.lost(self._env.now, *names, len(datagram))


_Then = Callable[[int, int, bytes], None]

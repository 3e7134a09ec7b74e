"""The process that moves every packet of a lab: from the devices' TAPs through the switch and back.

It stands in for the kernel's netem, with the same settings on every kernel. One thread; what it
cannot keep up with shows in its status.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import select
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Final, NoReturn

import msgspec

from halo_edge.errors import HaloError
from halo_edge.lab.control_server import ControlServer
from halo_edge.lab.forwarder_control import DeviceStatus, Failed, Reply, Request, SetLink, Status
from halo_edge.lab.link import Link, LinkSettings
from halo_edge.lab.switch import Port, Switch
from halo_edge.lab.tap import MAX_FRAME, open_tap

READY: Final = "ready"
# Frames read, or handed over, before others have their turn.
BATCH: Final = 32
# The guess of how late a timer rings: by how much it changes each time, and its bound.
TIMER_STEP_S: Final = 1e-6
MAX_TIMER_LATE_S: Final = 200e-6
# A frame later than this distorts what is measured through it.
LATE_S: Final = 0.001
PR_SET_PDEATHSIG: Final = 1
PR_SET_TIMERSLACK: Final = 29


class PortStart(msgspec.Struct, frozen=True):
    """One device, and its link when the lab begins."""

    device: str
    namespace: str
    mac: str
    up: LinkSettings
    down: LinkSettings


class ForwarderStart(msgspec.Struct, frozen=True, kw_only=True):
    """`control`: the path of its socket; `cores`: where it runs; `parent`: the process with which
    it ends."""

    seed: int
    interface: str
    ports: list[PortStart]
    control: str
    cores: list[int]
    parent: int

    def command(self) -> list[str]:
        """The command line that starts it. It says `READY` on its standard output."""
        arguments = msgspec.json.encode(self).decode()
        return [sys.executable, "-m", "halo_edge.lab.forwarder", arguments]


class Forwarder:
    """The TAPs, the switch between them, and the books. Raises `HaloError`."""

    def __init__(self, start: ForwarderStart) -> None:
        self._links = {
            port.device: (
                Link(port.up, f"{start.seed}/{port.device}/up"),
                Link(port.down, f"{start.seed}/{port.device}/down"),
            )
            for port in start.ports
        }
        macs = [bytes.fromhex(port.mac.replace(":", "")) for port in start.ports]
        links = self._links.values()
        self._switch = Switch([Port(mac, *link) for mac, link in zip(macs, links, strict=True)])
        self._taps = [open_tap(p.namespace, start.interface, p.mac) for p in start.ports]
        self._began, self._cpu_began = time.monotonic(), time.process_time()
        self._frames = 0
        self._late = 0
        self._late_s = 0.0
        self._worst_late_s = 0.0
        self._behind_s = 0.0
        self._timer_late_s = 0.0

    def run(self, control: ControlServer) -> None:
        """Forward until SystemExit."""
        ports = {tap: port for port, tap in enumerate(self._taps)}
        keeps_up, kept_up_at = True, 0.0
        while True:
            ready = self._wait([*ports, *control.sources])
            began, late = time.monotonic(), self._late
            if keeps_up:
                kept_up_at = began
            keeps_up = True
            for source in ready:
                if source in ports:
                    try:
                        keeps_up &= self._take_in(source, ports[source])
                    except OSError:  # its namespace is gone
                        del ports[source]
                    self._hand_over()
                else:
                    control.serve(source, self._answer)
            self._hand_over()
            now = time.monotonic()
            if self._late > late or now - kept_up_at > LATE_S:
                self._behind_s += now - began

    def _wait(self, sources: list[int]) -> list[int]:
        """Until some of `sources` are readable, which are returned, or a frame is due.

        A kernel's timers ring late, by some 50 us in a virtual machine. They are set earlier by the
        median of that.
        """
        next_due = self._switch.next_due
        if next_due is None:
            return select.select(sources, (), ())[0]
        rings_at = next_due - self._timer_late_s
        wait_s = rings_at - time.monotonic()
        if wait_s <= 0:
            return select.select(sources, (), (), 0)[0]
        # Exact to the microsecond, where epoll and poll count milliseconds.
        ready = select.select(sources, (), (), wait_s)[0]
        if not ready:
            later = time.monotonic() - rings_at > self._timer_late_s
            guess_s = self._timer_late_s + (TIMER_STEP_S if later else -TIMER_STEP_S)
            self._timer_late_s = min(guess_s, MAX_TIMER_LATE_S)
        return ready

    def _answer(self, message: bytes) -> bytes:
        return msgspec.json.encode(self.handle(message))

    def handle(self, message: bytes) -> Reply:
        """Do what a request says."""
        try:
            request = msgspec.json.decode(message, type=Request)
        except (msgspec.DecodeError, ValueError, RecursionError) as error:
            return Failed(f"not a request: {error}")
        if isinstance(request, SetLink):
            links = self._links.get(request.device)
            if links is None:
                return Failed(f"no device {request.device!r}")
            links[0].settings, links[1].settings = request.up, request.down
        return self._status()

    def _take_in(self, tap: int, port: int) -> bool:
        """Whether that was all it had. Raises OSError when it is gone."""
        for _ in range(BATCH):
            try:
                frame = os.read(tap, MAX_FRAME)
            except BlockingIOError:
                return True
            self._switch.frame(port, frame, time.monotonic())
        return False

    def _hand_over(self) -> None:
        due, now = self._switch.due, time.monotonic()
        for _ in range(BATCH):
            found = due(now)
            if found is None:
                return
            at, port, frame = found
            with contextlib.suppress(OSError):  # the interface is down
                os.write(self._taps[port], frame)
            now = time.monotonic()
            self._frames += 1
            late_s = now - at
            self._late_s += late_s
            if late_s > LATE_S:
                self._late += 1
                self._worst_late_s = max(self._worst_late_s, late_s)

    def _status(self) -> Status:
        elapsed_s = max(time.monotonic() - self._began, 1e-9)
        cpu_s = time.process_time() - self._cpu_began
        return Status(
            devices={
                device: DeviceStatus(
                    up.settings, down.settings, replace(up.counters), replace(down.counters)
                )
                for device, (up, down) in self._links.items()
            },
            frames=self._frames,
            late=self._late,
            late_s=self._late_s,
            worst_late_s=self._worst_late_s,
            behind_s=self._behind_s,
            cpu_s=cpu_s,
            busy=cpu_s / elapsed_s,
            overflowed=self._switch.overflowed,
        )


def _terminate(*_: object) -> NoReturn:
    raise SystemExit(0)


def _be_prompt(cores: list[int]) -> None:
    """What helps packets leave on time: no collection of garbage, exact timers, a core of its own,
    and, where that is allowed, precedence over what the lab computes."""
    gc.disable()
    os.sched_setaffinity(0, cores)
    ctypes.CDLL(None).prctl(PR_SET_TIMERSLACK, 1)
    with contextlib.suppress(OSError):
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))


def main() -> None:
    start = msgspec.json.decode(sys.argv[1], type=ForwarderStart)
    signal.signal(signal.SIGTERM, _terminate)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the command in the lab
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != start.parent:  # it died before we could ask
        sys.exit(1)
    try:
        forwarder, control = Forwarder(start), ControlServer(Path(start.control))
        _be_prompt(start.cores)
        print(READY, flush=True)
        forwarder.run(control)
    except (HaloError, OSError) as error:
        sys.exit(f"halo: {error}")


if __name__ == "__main__":
    main()

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
import socket
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Final, NoReturn

import msgspec

from halo_edge.errors import HaloError
from halo_edge.lab.forwarder_control import (
    MAX_MESSAGE_BYTES,
    DeviceStatus,
    Failed,
    Reply,
    Request,
    SetLink,
    Status,
)
from halo_edge.lab.link import Link, LinkSettings
from halo_edge.lab.switch import Port, Switch
from halo_edge.lab.tap import MAX_FRAME, open_tap

READY: Final = "ready"
# Frames read from one TAP before the others have their turn.
BATCH: Final = 32
# A frame later than this distorts what is measured through it.
LATE_S: Final = 0.001
MAX_CLIENTS: Final = 16
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
        self._devices = [port.device for port in start.ports]
        self._links = {
            port.device: (
                Link(port.up, f"{start.seed}/{port.device}/up"),
                Link(port.down, f"{start.seed}/{port.device}/down"),
            )
            for port in start.ports
        }
        macs = [bytes.fromhex(port.mac.replace(":", "")) for port in start.ports]
        self._switch = Switch(
            [Port(mac, *self._links[d]) for mac, d in zip(macs, self._devices, strict=True)]
        )
        self._taps = [open_tap(p.namespace, start.interface, p.mac) for p in start.ports]
        self._began, self._cpu_began = time.monotonic(), time.process_time()
        self._frames = 0
        self._late = 0
        self._worst_late_s = 0.0

    def run(self, control: socket.socket) -> None:
        """Forward until SystemExit. `control` listens, and does not block."""
        ports = {tap: port for port, tap in enumerate(self._taps)}
        clients: dict[int, socket.socket] = {}
        while True:
            self._hand_over()
            next_due = self._switch.next_due
            wait_s = None if next_due is None else max(0.0, next_due - time.monotonic())
            # Exact to the microsecond, where epoll and poll count milliseconds.
            sources = [*self._taps, control.fileno(), *clients]
            for source in select.select(sources, (), (), wait_s)[0]:
                if source in ports:
                    self._take_in(source, ports[source])
                elif source not in clients:
                    self._accept(control, clients)
                elif not self._answer(clients[source]):
                    clients.pop(source).close()

    def handle(self, message: bytes) -> Reply:
        """Do what a request says."""
        try:
            request = msgspec.json.decode(message, type=Request)
        except (msgspec.DecodeError, ValueError) as error:
            return Failed(f"not a request: {error}")
        if isinstance(request, SetLink):
            links = self._links.get(request.device)
            if links is None:
                return Failed(f"no device {request.device!r}")
            links[0].settings, links[1].settings = request.up, request.down
        return self._status()

    def _take_in(self, tap: int, port: int) -> None:
        for _ in range(BATCH):
            try:
                frame = os.read(tap, MAX_FRAME)
            except OSError:  # no more, or the interface is down
                return
            self._switch.frame(port, frame, time.monotonic())

    def _hand_over(self) -> None:
        due, now = self._switch.due, time.monotonic()
        while (found := due(now)) is not None:
            at, port, frame = found
            with contextlib.suppress(OSError):  # the interface is down
                os.write(self._taps[port], frame)
            now = time.monotonic()
            self._frames += 1
            late_s = now - at
            if late_s > LATE_S:
                self._late += 1
                self._worst_late_s = max(self._worst_late_s, late_s)

    def _accept(self, control: socket.socket, clients: dict[int, socket.socket]) -> None:
        with contextlib.suppress(OSError):
            client, _ = control.accept()
            if len(clients) >= MAX_CLIENTS:
                client.close()
                return
            client.setblocking(False)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, MAX_MESSAGE_BYTES)
            clients[client.fileno()] = client

    def _answer(self, client: socket.socket) -> bool:
        """Whether the client is still there."""
        try:
            message = client.recv(MAX_MESSAGE_BYTES)
            if message:
                client.send(msgspec.json.encode(self.handle(message)))
        except BlockingIOError:  # it asks without reading the answers: it misses this one
            return True
        except OSError:
            return False
        return bool(message)

    def _status(self) -> Status:
        elapsed_s = max(time.monotonic() - self._began, 1e-9)
        return Status(
            devices={
                device: DeviceStatus(
                    up.settings, down.settings, replace(up.counters), replace(down.counters)
                )
                for device, (up, down) in self._links.items()
            },
            frames=self._frames,
            late=self._late,
            worst_late_s=self._worst_late_s,
            busy=(time.process_time() - self._cpu_began) / elapsed_s,
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
        forwarder = Forwarder(start)
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as control:
            control.bind(start.control)
            control.listen()
            control.setblocking(False)
            Path(start.control).chmod(0o600)
            _be_prompt(start.cores)
            print(READY, flush=True)
            forwarder.run(control)
    except HaloError as error:
        sys.exit(f"halo: {error}")


if __name__ == "__main__":
    main()

"""What of a lab's behaviour is this machine's own: cores, the kernel's timer, what the forwarder
takes for a frame, and how long a process takes to wake.
"""

from __future__ import annotations

import os
import select
import socket
import struct
import time
from typing import Final

from halo_edge.cluster.stopwatch import typical
from halo_edge.lab.link import Link, LinkSettings
from halo_edge.lab.switch import Port, Switch
from halo_edge.plan.device_profile import Machine

CLOCK_MONOTONIC_COARSE: Final = 6  # it goes from tick to tick
FRAMES: Final = 300
FRAME_BYTES: Final = 1150
WAKE_UPS: Final = 150
REST_S: Final = 0.001
_STAMP: Final = struct.Struct("<q")


def measure_machine() -> Machine:
    """Takes half a second."""
    cores = sorted(os.sched_getaffinity(0))
    same_s = wake_up_s(cores[-1], cores[-1])
    other_s = wake_up_s(cores[0], cores[-1])
    return Machine(
        cores=max(cores) + 1,
        tick_s=time.clock_getres(CLOCK_MONOTONIC_COARSE),
        frame_s=frame_s(),
        switch_s=max(0.0, same_s - _send_s()),
        idle_wake_s=max(0.0, other_s - same_s),
    )


def wake_up_s(sender_core: int, receiver_core: int) -> float:
    """From a datagram being sent on one core to its receiver, asleep in `select`, going on."""
    receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    receiver.bind(("127.0.0.1", 0))
    before = os.sched_getaffinity(0)
    child = os.fork()
    if child == 0:  # nothing of the parent's may run here but this
        try:
            _send_stamps(receiver.getsockname(), sender_core)
        finally:
            os._exit(0)
    try:
        os.sched_setaffinity(0, {receiver_core})
        taken: list[float] = []
        buffer = bytearray(_STAMP.size)
        while len(taken) < WAKE_UPS and select.select((receiver,), (), (), 1.0)[0]:
            now = time.perf_counter_ns()
            receiver.recv_into(buffer)
            taken.append((now - _STAMP.unpack(buffer)[0]) / 1e9)
        return typical(taken or [0.0])
    finally:
        os.sched_setaffinity(0, before)
        os.waitpid(child, 0)
        receiver.close()


def _send_stamps(to: tuple[str, int], core: int) -> None:
    os.sched_setaffinity(0, {core})
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        for _ in range(WAKE_UPS):
            time.sleep(REST_S)
            sock.sendto(_STAMP.pack(time.perf_counter_ns()), to)


def _send_s() -> float:
    """Of handing a datagram to the kernel, over loopback, which `wake_up_s` contains."""
    taken = []
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as out,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sink,
    ):
        sink.bind(("127.0.0.1", 0))
        for _ in range(WAKE_UPS):
            time.sleep(REST_S)
            began = time.perf_counter()
            out.sendto(_STAMP.pack(0), sink.getsockname())
            taken.append(time.perf_counter() - began)
    return typical(taken)


def frame_s() -> float:
    """CPU time in which the forwarder passes a frame on: read, switched, written.

    Sockets stand in for the TAPs, as those take privileges; sending over loopback takes the kernel
    the same way into the receiver's socket as writing to a TAP does.
    """
    macs = (bytes(6), bytes([2, *bytes(5)]))
    ports = [Port(mac, Link(LinkSettings(), "up"), Link(LinkSettings(), "down")) for mac in macs]
    switch = Switch(ports)
    source, tap = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    out = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sink = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sink.bind(("127.0.0.1", 0))
    out.connect(sink.getsockname())
    frame = macs[1] + bytes(FRAME_BYTES)
    taken = []
    with source, tap, out, sink:
        for _ in range(FRAMES):
            source.send(frame)
            began = time.perf_counter()
            select.select((tap,), (), (), 1.0)
            switch.frame(0, os.read(tap.fileno(), 2048), time.monotonic())
            while (due := switch.due(time.monotonic())) is not None:
                os.write(out.fileno(), due[2])
            taken.append(time.perf_counter() - began)
            sink.recv(2048)
    return typical(taken)

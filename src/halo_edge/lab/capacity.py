"""How many packets a second the forwarder carries on this machine, and how long it takes for one.

It sends ever more through a forwarder of its own, between two devices whose links do nothing, until
packets are lost or wait. Past that, the forwarder and not the links decides what a lab shows.
"""

from __future__ import annotations

import socket
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from typing import Final

from halo_edge.errors import HaloError
from halo_edge.lab.forwarder_control import Ask, ForwarderClient
from halo_edge.lab.lab import Lab
from halo_edge.lab.names import LabNames
from halo_edge.lab.namespaces import inside
from halo_edge.lab.spec import DeviceSpec, FabricKind, LabSpec

LAB: Final = "capacity"
PORT: Final = 9
PACKET_BYTES: Final = 1400
HEADER_BYTES: Final = 28  # of IP and UDP, within the packet
RATES: Final = (2_000, 4_000, 8_000, 12_000, 16_000, *range(20_000, 100_001, 5_000))
TRIAL_S: Final = 2.0
ATTEMPTS: Final = 3  # at each rate: what else this machine does comes and goes
MAX_LOSS: Final = 0.001
# What `Status.behind_s` may come to, of a trial's time.
MAX_BEHIND: Final = 0.1
# A sender that was held up does not send all it owes in one go: it leaves out what is more.
MAX_BURST: Final = 32
MIN_OFFERED: Final = 0.95
SINGLE_PACKETS: Final = 1000
DRAIN_S: Final = 0.2
RECEIVE_TIMEOUT_S: Final = 5.0
RECEIVE_BUFFER_BYTES: Final = 64 << 20
SO_RCVBUFFORCE: Final = 33


@dataclass(frozen=True)
class Trial:
    """`asked`, `offered`, `carried`: packets a second; `behind`: the share of the time in which
    packets waited for the forwarder; `busy`: the share of a core that it used."""

    asked: float
    offered: float
    carried: float
    behind: float
    busy: float

    @property
    def was_sent(self) -> bool:
        return self.offered >= MIN_OFFERED * self.asked

    @property
    def kept_up(self) -> bool:
        return self.carried >= (1 - MAX_LOSS) * self.offered and self.behind <= MAX_BEHIND


@dataclass(frozen=True)
class Capacity:
    """`packets_per_s`: of 1400 bytes, from one device to another; `at_least`: it may be more, but
    this machine could not send more; `busy`: the share of a core that the forwarder uses for them;
    `latency_*_s`: of a packet that travels alone, from `send` to `recv`."""

    packets_per_s: float
    at_least: bool
    busy: float
    latency_median_s: float
    latency_p99_s: float


def measure_capacity(
    tell: Callable[[str], None] = lambda _: None,
    rates: Sequence[int] = RATES,
    trial_s: float = TRIAL_S,
) -> Capacity:
    """Try `rates` (packets a second, rising) in turn, for `trial_s` each.

    Raises `HaloError` where no lab is possible, or the first of them is too much.
    """
    devices = (DeviceSpec("n0"), DeviceSpec("n1"))
    with ExitStack() as stack:
        stack.enter_context(Lab(LabSpec(LAB, devices, fabric=FabricKind.FORWARDER)))
        client = stack.enter_context(closing(ForwarderClient(LabNames(LAB).control)))
        sender, receiver = stack.enter_context(_sockets())
        latencies = _latencies(sender, receiver)
        best: Trial | None = None
        for rate in rates:
            trial = _attempt(client, sender, receiver, rate, trial_s)
            tell(
                f"{trial.offered:,.0f} packets/s: {trial.carried:,.0f} carried, behind for "
                f"{trial.behind:.1%} of the time, {trial.busy:.0%} of a core"
            )
            if not trial.kept_up or (best is not None and trial.offered <= best.offered):
                break
            best = trial
    if best is None:
        raise HaloError(
            f"the forwarder cannot carry {rates[0]:,} packets/s; is this machine busy otherwise?"
        )
    return Capacity(
        best.carried,
        trial.kept_up,
        best.busy,
        statistics.median(latencies),
        statistics.quantiles(latencies, n=100)[-1],
    )


@contextmanager
def _sockets() -> Iterator[tuple[socket.socket, socket.socket]]:
    """UDP from the first device to the second."""
    names = LabNames(LAB)
    with ExitStack() as stack:
        ends = []
        for i, device in enumerate(("n0", "n1")):
            with inside(names.namespace(device)):
                end = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            end.bind((names.address(i), PORT))
            ends.append(end)
        sender, receiver = ends
        sender.connect((names.address(1), PORT))
        receiver.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, RECEIVE_BUFFER_BYTES)
        yield sender, receiver


def _latencies(sender: socket.socket, receiver: socket.socket) -> list[float]:
    """Of packets that travel alone, in seconds."""
    receiver.settimeout(RECEIVE_TIMEOUT_S)
    packet, found = bytes(PACKET_BYTES - HEADER_BYTES), []
    try:
        for _ in range(SINGLE_PACKETS):
            sent_at = time.perf_counter()
            sender.send(packet)
            receiver.recv(PACKET_BYTES)
            found.append(time.perf_counter() - sent_at)
    except TimeoutError:
        raise HaloError("the forwarder lost a packet that travelled alone") from None
    return found


def _attempt(
    client: ForwarderClient,
    sender: socket.socket,
    receiver: socket.socket,
    rate: int,
    trial_s: float,
) -> Trial:
    """The best of a few trials."""
    trials: list[Trial] = []
    while len(trials) < ATTEMPTS and not any(t.was_sent and t.kept_up for t in trials):
        before = client.ask(Ask())
        began = time.monotonic()
        sent, received = _send(sender, receiver, rate, trial_s)
        elapsed_s = time.monotonic() - began
        received += _drain(receiver, sent - received)
        after = client.ask(Ask())
        trials.append(
            Trial(
                rate,
                sent / elapsed_s,
                received / elapsed_s,
                (after.behind_s - before.behind_s) / elapsed_s,
                (after.cpu_s - before.cpu_s) / elapsed_s,
            )
        )
    return max(trials, key=lambda trial: (trial.kept_up, trial.offered))


def _send(
    sender: socket.socket, receiver: socket.socket, rate: int, trial_s: float
) -> tuple[int, int]:
    """Send up to `rate` packets a second; how many were sent, and received meanwhile."""
    packet, buffer = bytes(PACKET_BYTES - HEADER_BYTES), bytearray(PACKET_BYTES)
    receiver.setblocking(False)
    sent = received = left_out = 0
    began = time.monotonic()
    while (elapsed_s := time.monotonic() - began) < trial_s:
        owed = int(elapsed_s * rate) - left_out - sent
        for _ in range(min(owed, MAX_BURST)):
            sender.send(packet)
            sent += 1
        left_out += max(0, owed - MAX_BURST)
        try:
            while True:
                receiver.recv_into(buffer)
                received += 1
        except BlockingIOError:
            pass
    return sent, received


def _drain(receiver: socket.socket, missing: int) -> int:
    """How many of the `missing` packets still come."""
    receiver.settimeout(DRAIN_S)
    for received in range(missing):
        try:
            receiver.recv(PACKET_BYTES)
        except TimeoutError:
            return received
    return missing

"""A cluster in virtual time: one root, some workers, and links that lose, delay and damage.

A discrete-event simulation: events are taken from a heap in the order of their times, and the
clock jumps from one to the next. Everything random comes from one seed. Nothing sleeps.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from dataclasses import dataclass, field

from halo_edge.sync.ids import ROOT, DeviceId, RoundId
from halo_edge.sync.layout import RoundLayout
from halo_edge.sync.root import RootRounds
from halo_edge.sync.statistics import Statistics
from halo_edge.sync.timing import Recovery
from halo_edge.sync.worker import WorkerRounds

KEY = bytes(range(32))
EPOCH = 3
SPACING_S = 10e-6  # between two datagrams on one link: 1.2 kB at 1 Gbit/s


@dataclass
class Link:
    """What happens to a datagram on its way. Rates are probabilities, times are in seconds."""

    delay_s: float = 0.001
    jitter_s: float = 0.0  # each datagram is late by up to so much more, so that they reorder
    loss: float = 0.0
    duplicate: float = 0.0
    corrupt: float = 0.0
    drop: Callable[[DeviceId, DeviceId, int], bool] = lambda sender, receiver, n: False
    """Loses the n-th datagram (from 0) from one device to another, for tests of a certain loss."""


def layout(
    *,
    row_bytes: int = 136,
    max_payload: int = 300,
    window: int = 16,
    max_tokens: int = 128,
) -> RoundLayout:
    """Small rounds of the usual proportions: 2 rows a chunk, 64 chunks for 128 tokens."""
    return RoundLayout(
        n_layers=4,
        max_tokens=max_tokens,
        x_row_bytes=row_bytes,
        partial_row_bytes=row_bytes,
        x_block_bytes=34,
        partial_block_bytes=34,
        max_payload=max_payload,
        window=window,
    )


def partial_of(device: DeviceId, round_id: RoundId, x: bytes, nbytes: int) -> bytes:
    """What the simulated worker answers: depends on everything it was given."""
    return random.Random(f"{device} {tuple(round_id)} {x.hex()}").randbytes(nbytes)


@dataclass
class Cluster:
    """Devices and links. `run` one round after another."""

    layout: RoundLayout
    n_workers: int
    link: Link = field(default_factory=Link)
    seed: int = 0
    recovery: Recovery = field(default_factory=Recovery)
    compute_s: float = 0.0005
    stall_timeout_s: float = 30.0
    owner: Callable[[Cluster], None] = lambda cluster: None
    """What the root's owner does when it has received all that has come."""

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)
        self.now = 100.0
        self.devices = [DeviceId(n) for n in range(1, self.n_workers + 1)]
        self.epoch = EPOCH
        self.root = self._root(Statistics())
        self.workers = self._workers()
        self.dead: set[DeviceId] = set()
        self.stopped: dict[DeviceId, float] = {}  # until then, as by SIGSTOP
        self.round_id = RoundId(-1, 0)
        self.tokens = 0
        self.computed: list[tuple[DeviceId, RoundId]] = []
        self.wire: list[tuple[float, DeviceId, DeviceId, bytes]] = []  # all that was sent
        self._inboxes: dict[DeviceId, list[bytes]] = {d: [] for d in [ROOT, *self.devices]}
        self._computing: dict[DeviceId, tuple[float, RoundId, bytes]] = {}  # done when, with what
        self._alarms: dict[DeviceId, float] = {}
        self._free_at: dict[tuple[DeviceId, DeviceId], float] = {}
        self.sent: dict[tuple[DeviceId, DeviceId], int] = {}  # datagrams so far, by route
        # (time, 0 to deliver and 1 to act, a serial number, the device, what is delivered)
        self._events: list[tuple[float, int, int, DeviceId, bytes | None]] = []
        self._serial = 0
        self._x: dict[RoundId, bytes] = {}

    def begin_epoch(self) -> None:
        """The next one, of the same devices. What the last one sent is still under way."""
        self.epoch += 1
        root, workers = self.root, self.workers
        self.root, self.workers = self._root(root.statistics), self._workers()
        self.root.follow(root)
        for device, worker in self.workers.items():
            worker.follow(workers[device])

    def run(self, round_id: RoundId, tokens: int) -> float:
        """Runs a round to its end and checks what everybody got. The seconds it took."""
        began = self.now
        supplied = self.root.statistics.chunks_supplied
        self.round_id, self.tokens = round_id, tokens
        x = self._x[round_id] = self.random.randbytes(tokens * self.layout.x_row_bytes)
        self.root.begin(round_id, tokens, x, self.now)
        self._at(self.now, ROOT)
        while not self.root.complete:
            self._step()
        for device in self.devices:
            assert bytes(self.root.partial(device)) == self.partial_of(device), f"seed {self.seed}"
            if self.root.statistics.chunks_supplied == supplied:
                assert self.computed.count((device, round_id)) == 1, f"seed {self.seed}: {device}"
        assert len(set(self.computed)) == len(self.computed), f"seed {self.seed}"
        return self.now - began

    def _root(self, statistics: Statistics) -> RootRounds:
        return RootRounds(
            KEY,
            self.layout,
            self.devices,
            epoch=self.epoch,
            recovery=self.recovery,
            stall_timeout_s=self.stall_timeout_s,
            statistics=statistics,
        )

    def _workers(self) -> dict[DeviceId, WorkerRounds]:
        return {
            device: WorkerRounds(KEY, self.layout, device, epoch=self.epoch, recovery=self.recovery)
            for device in self.devices
        }

    def partial_of(self, device: DeviceId) -> bytes:
        """What the worker answers the round in progress with."""
        nbytes = self.tokens * self.layout.partial_row_bytes
        return partial_of(device, self.round_id, self._x[self.round_id], nbytes)

    def supply(self, device: DeviceId) -> None:
        """The root does the work of that device, in no time."""
        partial, missing = self.partial_of(device), self.root.missing(device)
        for chunk, (start, stop) in enumerate(self.root.partial_spans):
            if missing >> chunk & 1:
                self.root.supply(device, chunk, partial[start:stop])

    def take_over(self) -> None:
        """As an `owner`: the root does the work of those that are away."""
        self.root.overdue(self.now)
        for device in self.root.away:
            self.supply(device)

    def go_on(self) -> None:
        """As an `owner`: the root waits for nothing that is late or lost."""
        for overdue in self.root.overdue(self.now):
            self.supply(overdue.device)
        self.take_over()

    def settle(self, until: float) -> None:
        """Lets everything happen that is going to, up to that time."""
        while self._events and self._events[0][0] <= until:
            self._step()
        self.now = until

    def _at(self, time: float, device: DeviceId, datagram: bytes | None = None) -> None:
        self._serial += 1
        event = (time, int(datagram is None), self._serial, device, datagram)
        heapq.heappush(self._events, event)

    def _step(self) -> None:
        assert self._events, f"seed {self.seed}: nobody waits for anything, and yet incomplete"
        self.now, _, _, device, datagram = heapq.heappop(self._events)
        if device in self.dead:
            return
        if datagram is not None:
            self._inboxes[device].append(datagram)
            self._at(self.now, device)  # after everything else that comes at this time
        elif self.stopped.get(device, self.now) > self.now:
            self._at(self.stopped[device], device)
        elif device == ROOT:
            self._root_acts()
        else:
            self._worker_acts(device)

    def _drain(self, device: DeviceId) -> None:
        rounds = self.root if device == ROOT else self.workers[device]
        for datagram in self._inboxes[device]:
            buffer = bytearray(datagram)
            rounds.receive(memoryview(buffer), self.now)
            buffer[:] = bytes(len(buffer))  # the caller may use it again
        self._inboxes[device].clear()

    def _root_acts(self) -> None:
        self._drain(ROOT)
        self.owner(self)
        for destinations, datagram in self.root.datagrams(self.now):
            for device in destinations:
                self._send(ROOT, device, datagram)
        self._wake(ROOT, self.root.deadline())

    def _worker_acts(self, device: DeviceId) -> None:
        computing = self._computing.get(device)
        if computing is not None and self.now < computing[0]:
            return  # single-threaded: what comes meanwhile waits in the inbox
        self._drain(device)
        worker = self.workers[device]
        if computing is not None:
            _, round_id, partial = self._computing.pop(device)
            worker.answer(round_id, partial, self.now)
        for datagram in worker.datagrams(self.now):
            self._send(device, ROOT, datagram)
        ready = worker.ready()
        if ready is not None:
            x = bytes(ready.x)
            assert x == self._x[ready.id], f"seed {self.seed}: {device} got another x"
            self.computed.append((device, ready.id))
            partial = partial_of(device, ready.id, x, ready.tokens * self.layout.partial_row_bytes)
            self._computing[device] = (self.now + self.compute_s, ready.id, partial)
            self._at(self.now + self.compute_s, device)
        self._wake(device, worker.deadline())

    def _wake(self, device: DeviceId, deadline: float | None) -> None:
        if self._alarms.get(device, -1.0) <= self.now:
            self._alarms.pop(device, None)  # it has rung
        if deadline is not None and self._alarms.get(device) != deadline:
            self._alarms[device] = deadline
            self._at(max(deadline, self.now), device)

    def _send(self, sender: DeviceId, receiver: DeviceId, datagram: bytes) -> None:
        route = (sender, receiver)
        leaves = max(self.now, self._free_at.get(route, 0.0)) + SPACING_S
        self._free_at[route] = leaves
        n = self.sent.get(route, 0)
        self.sent[route] = n + 1
        self.wire.append((leaves, sender, receiver, datagram))
        link, rng = self.link, self.random
        if link.drop(sender, receiver, n):
            return
        for _ in range(2 if rng.random() < link.duplicate else 1):
            if rng.random() < link.loss:
                continue
            arrives = leaves + link.delay_s + rng.random() * link.jitter_s
            if rng.random() < link.corrupt:
                damaged = bytearray(datagram)
                damaged[rng.randrange(len(damaged))] ^= 1 << rng.randrange(8)
                self._at(arrives, receiver, bytes(damaged))
            else:
                self._at(arrives, receiver, datagram)

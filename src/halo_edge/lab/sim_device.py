"""A device in virtual time: what the real loops of root and worker do, at the times they take.

The very same `RootRounds` and `WorkerRounds` as over a real network are driven in the order of
`cluster/rounds_ffn.py` and `cluster/worker.py`. Devices have one thread: what arrives while it
computes waits in the inbox.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import simpy

from halo_edge.lab.sim_inbox import Inbox
from halo_edge.lab.sim_network import Network
from halo_edge.lab.sim_thread import Process, Thread
from halo_edge.lab.sim_trace import SimTrace
from halo_edge.plan.costs import Costs
from halo_edge.sync.ids import DeviceId, RoundId
from halo_edge.sync.root import RootRounds
from halo_edge.sync.worker import ReadyRound, WorkerRounds

Answer: TypeAlias = Callable[[ReadyRound], bytes]
"""The encoded partial that a worker answers a round with."""

GoOn: TypeAlias = Callable[[float], None]
"""Supplies what the root does not wait for, given the time, when it has received all there is."""


class WorkerLeft(Exception):
    """A worker's process is gone. The root was told by the control plane."""


@dataclass(frozen=True)
class Place:
    """What a device has around it. `port`: its own on the network."""

    env: simpy.Environment
    network: Network
    port: int
    thread: Thread
    costs: Costs
    trace: SimTrace


class Device:
    """One thread behind one port of the network."""

    def __init__(self, place: Place) -> None:
        port = place.network.ports[place.port]
        self.name = port.name
        self._inbox: Inbox = port.inbox
        self._env, self._network, self._port = place.env, place.network, place.port
        self.costs = place.costs
        self._thread, self._trace = place.thread, place.trace
        self.waited_s = 0.0
        """Time in which it had nothing to do but wait for the network."""

    def work(self, what: str, seconds: float) -> Process:
        """Something that takes CPU time."""
        self._trace.begins(self._env.now, self.name, what)
        yield from self._thread.run(seconds)
        self._trace.ends(self._env.now, self.name, what)

    def _wait(self, until: float | None) -> Process:
        """Until something comes, or then."""
        self.waited_s += yield from self._thread.wait(self._inbox, until, self.costs.wake_s)

    def _send(self, datagrams: Sequence[tuple[int, bytes]], else_s: float = 0.0) -> Process:
        """(receiver's port, datagram). All are sealed before the first leaves, copies of one once.
        `else_s`: other work to be done before."""
        sealed = {id(datagram): datagram for _, datagram in datagrams}.values()
        if sealed:
            seal_s = self.costs.seal_s(len(sealed), sum(map(len, sealed)))
            yield from self.work("seal", else_s + seal_s)
        for receiver, datagram in datagrams:
            yield from self._thread.run(self.costs.send_s)
            self._network.send(self._port, receiver, datagram)


class WorkerDevice(Device):
    """Answers rounds."""

    def __init__(
        self, place: Place, root: int, rounds: WorkerRounds, neurons: int, answer: Answer
    ) -> None:
        """`root`: its port. `neurons`: how many this device holds of each layer."""
        super().__init__(place)
        self._root = root
        self.rounds = rounds
        self._neurons = neurons
        self._answer = answer

    def serve(self) -> Process:
        rounds, env, root = self.rounds, self._env, self._root
        while True:
            if rounds.ready() is None:
                yield from self._wait(rounds.deadline())
            now, serve_s = env.now, 0.0
            yield from self._drain(now)
            request = rounds.ready()
            if request is not None:
                partial = self._answer(request)
                yield from self.work("ffn", self.costs.ffn_s(self._neurons, request.tokens))
                now = env.now
                yield from self._drain(now)
                rounds.answer(request.id, partial, now)
                serve_s = self.costs.serve_s
            yield from self._send([(root, d) for d in rounds.datagrams(now)], serve_s)

    def _drain(self, now: float) -> Process:
        """Take in everything that has come."""
        while self._inbox:
            taken = nbytes = 0
            while self._inbox:
                datagram = self._inbox.take()
                taken, nbytes = taken + 1, nbytes + len(datagram)
                self.rounds.receive(datagram, now)
            yield from self.work("receive", self.costs.receive_s(taken, nbytes))


class RootDevice(Device):
    """Runs rounds, one after another."""

    def __init__(
        self,
        place: Place,
        rounds: RootRounds,
        neurons: int,
        ports: Mapping[DeviceId, int],
        go_on: GoOn = lambda now: None,
    ) -> None:
        """`ports`: the workers'. `neurons`: how many this device holds of each layer."""
        super().__init__(place)
        self.rounds = rounds
        self._neurons = neurons
        self._ports = ports
        self._go_on = go_on
        self._left: str | None = None

    def lose(self, worker: str) -> None:
        """The control plane says that a worker has left the cluster."""
        self._left = worker
        self._inbox.wake()

    def round(self, round_id: RoundId, tokens: int, x: bytes) -> Process:
        """One round, from x to the sum of the partials. Raises DeviceStalled, WorkerLeft."""
        costs = self.costs
        if not self._ports:
            yield from self.work("ffn", costs.ffn_s(self._neurons, tokens))
            return
        yield from self.work("encode", costs.encode_s(tokens) + costs.round_s)
        now = self._env.now
        self.rounds.begin(round_id, tokens, x, now)
        yield from self._send_due(now)
        yield from self.work("ffn", costs.ffn_s(self._neurons, tokens))
        yield from self._collect()
        yield from self.work("add", costs.add_s(len(self._ports), tokens))

    def _send_due(self, now: float) -> Process:
        ports = self._ports
        yield from self._send(
            [
                (ports[device], datagram)
                for devices, datagram in self.rounds.datagrams(now)
                for device in devices
            ]
        )

    def _collect(self) -> Process:
        rounds, inbox, env = self.rounds, self._inbox, self._env
        look_at: float | None = 0.0
        while True:
            now = env.now
            while inbox:
                taken = nbytes = 0
                while inbox and not rounds.complete:
                    datagram = inbox.take()
                    taken, nbytes = taken + 1, nbytes + len(datagram)
                    rounds.receive(datagram, now)
                yield from self.work("receive", self.costs.receive_s(taken, nbytes))
                if rounds.complete:
                    return
            if self._left is not None:
                raise WorkerLeft(f"worker {self._left} left in the middle of a generation")
            if rounds.unsettled or (look_at is not None and now >= look_at):
                self._go_on(now)
                if rounds.complete:
                    return
                yield from self._send_due(now)
            if not inbox:
                look_at = rounds.deadline()
                yield from self._wait(look_at)

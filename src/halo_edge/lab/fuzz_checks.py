"""What must hold in every cluster at every moment, looked at from outside of `sync`.

Bytes are compared with what was really computed; chunks are counted by what changed in memory and
by the statistics, which must agree. Nothing here knows how rounds are carried.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Final

from halo_edge.lab.fuzz_schedule import LONGEST_FAULT_S, STALL_TIMEOUT_S
from halo_edge.sync.ids import ROOT, DeviceId, RoundId
from halo_edge.sync.layout import RoundLayout
from halo_edge.sync.root import Overdue, RootRounds
from halo_edge.sync.statistics import Statistics
from halo_edge.sync.transfer import chunks_of
from halo_edge.sync.worker import ReadyRound, WorkerRounds

# What may pass between a deadline and its being acted on: the root's computing.
SLACK_S: Final = 0.5
# A device that could be reached for so long of the stall timeout must have been heard: at 60 % loss
# each way, WANT and answer sent twice, one try in 2.4 succeeds, and there are 20 and more.
REACHABLE_S: Final = 0.7 * STALL_TIMEOUT_S
# Of a round beside the faults: far beyond what 60 % loss makes of it.
ROUND_LIMIT_S: Final = 60.0
LONGEST_TROUBLE_S: Final = 3 * LONGEST_FAULT_S + STALL_TIMEOUT_S
# Datagrams a round may take, for each chunk and for each second, of each worker. The worst of some
# thousand schedules needed a quarter of it.
PER_CHUNK: Final = 40
PER_SECOND: Final = 800


class Broken(Exception):
    """An invariant does not hold."""


def partial_of(device: DeviceId, round_id: RoundId, x: bytes, nbytes: int) -> bytes:
    """What a worker answers here: it depends on everything it was given."""
    return random.Random(f"{device} {tuple(round_id)} {x.hex()}").randbytes(nbytes)


class End:
    """What one end of the protocol was handed, and what it says of it."""

    def __init__(self, statistics: Statistics) -> None:
        self.statistics = statistics
        self._genuine: set[bytes] = set()  # sent to it in this epoch, by who may
        self._handed: set[bytes] = set()  # of these, what it was handed
        self._arrived: set[bytes] = set()
        self._received = 0  # at the last look

    def sent(self, datagram: bytes) -> None:
        """Somebody sends it this."""
        self._genuine.add(datagram)

    def is_news(self, datagram: bytes) -> bool:
        """Genuine, and the first of its copies to come."""
        news = datagram in self._genuine and datagram not in self._arrived
        self._arrived.add(datagram)
        return news

    def handed(self, datagram: bytes) -> None:
        """It takes this in."""
        if datagram in self._genuine:
            self._handed.add(datagram)

    def changed(self) -> bool:
        """Whether it has received anything since the last time."""
        before, self._received = self._received, self.statistics.datagrams_received
        return self._received != before

    @property
    def opened(self) -> int:
        """Datagrams it took for genuine and new."""
        s = self.statistics
        return s.datagrams_received - (
            s.wrong_length
            + s.wrong_version
            + s.wrong_epoch
            + s.unknown_sender
            + s.replayed
            + s.forged
        )

    @property
    def accepted(self) -> int:
        """Chunks that it put in, by its own account."""
        s = self.statistics
        return self.opened - s.wants_received - s.duplicates - s.stale - s.malformed

    def check(self) -> None:
        if self.opened > len(self._handed):
            raise Broken(f"{self.opened} datagrams opened, {len(self._handed)} genuine ones came")


class RoundChecks:
    """One epoch's rounds, seen from all sides."""

    def __init__(
        self,
        layout: RoundLayout,
        root: RootRounds,
        workers: Mapping[DeviceId, WorkerRounds],
        take_over: bool,
    ) -> None:
        """`take_over`: silent devices are, so that none is ever said to stall a round."""
        self._layout = layout
        self._root = root
        self._take_over = take_over
        self._x_grid, self._partial_grid = layout.x_grid(), layout.partial_grid()
        self.root_end = End(root.statistics)
        self.worker_ends = {d: End(rounds.statistics) for d, rounds in workers.items()}
        self._sizes = {d: len(root.partial_memory(d)) for d in workers}
        self._id = RoundId(-1, 0)
        self._tokens = 0
        self._begun: dict[RoundId, tuple[int, bytes]] = {}  # tokens and x of every round
        self._x_chunks = 0  # of all rounds begun, to each worker
        self._began = 0.0
        self._running = False
        self._accepted_before = 0  # by the root, in earlier rounds
        self._supplied_before = 0
        self._sent = 0  # datagrams, in the round
        self._chunks = 0
        self._expected: dict[DeviceId, bytes] = {}
        self._before: dict[DeviceId, bytes] = {}  # what lay there when the round began
        self._missing: dict[DeviceId, set[int]] = {}
        self._heard: dict[DeviceId, float] = {}
        self._supplied_for: set[DeviceId] = set()  # their silence runs on from round to round
        self._answered: set[tuple[DeviceId, RoundId]] = set()
        self.traffic = 0.0
        """Datagrams of the last round, as a share of what it may take."""

    def begin(self, round_id: RoundId, tokens: int, x: bytes, now: float) -> None:
        """The root is about to begin a round."""
        self._id, self._tokens, self._began = round_id, tokens, now
        self._begun[round_id] = tokens, x
        x_chunks, partial_chunks = (
            self._x_grid.n_chunks(tokens),
            self._partial_grid.n_chunks(tokens),
        )
        self._x_chunks += x_chunks
        self._chunks = x_chunks + partial_chunks
        self._accepted_before = self.root_end.accepted
        self._supplied_before = self._root.statistics.chunks_supplied
        self._sent = 0
        nbytes = tokens * self._layout.partial_row_bytes
        for device in self.worker_ends:
            self._expected[device] = partial_of(device, round_id, x, nbytes)
            self._before[device] = bytes(self._root.partial_memory(device))
            self._missing[device] = set(range(partial_chunks))
            self._heard[device] = now
        self._running = True

    def sends(self, receiver: DeviceId, datagram: bytes, now: float) -> None:
        """Somebody sends a datagram."""
        end = self.root_end if receiver == ROOT else self.worker_ends[receiver]
        end.sent(datagram)
        self._sent += 1
        most = PER_CHUNK * self._chunks + PER_SECOND * (now - self._began)
        self.traffic = self._sent / (most * len(self.worker_ends))
        if self.traffic > 1:
            raise Broken(f"{self._id} has taken {self._sent} datagrams")

    def answer(self, device: DeviceId, request: ReadyRound) -> bytes:
        """A worker has all of x, as it thinks, and computes its partial."""
        x = bytes(request.x)
        if (request.tokens, x) != self._begun.get(request.id):
            raise Broken(f"device {device} computes {request.id} from a wrong x")
        if request.id != self._id and not self._root.statistics.chunks_supplied:
            raise Broken(f"device {device} computes {request.id}, which is over")
        if (device, request.id) in self._answered:
            raise Broken(f"device {device} computes {request.id} twice")
        self._answered.add((device, request.id))
        nbytes = request.tokens * self._layout.partial_row_bytes
        return partial_of(device, request.id, x, nbytes)

    def overdue(self, overdue: Overdue) -> None:
        """The root says so."""
        device, missing, expected_s = overdue
        if not missing or missing & ~self._root.missing(device):
            raise Broken(f"chunks {missing:b} of device {device} are called overdue, but are there")
        if not 0 <= expected_s < ROUND_LIMIT_S + LONGEST_TROUBLE_S:
            raise Broken(f"device {device} is expected in {expected_s:.3f} s")

    def supply(self, device: DeviceId, missing: int) -> None:
        """The root has computed these chunks itself."""
        self._supplied_for.add(device)
        for chunk in chunks_of(missing):
            start, stop = self._root.partial_spans[chunk]
            self._root.supply(device, chunk, self._expected[device][start:stop])

    def arrives(self, device: DeviceId, datagram: bytes, now: float) -> None:
        """A datagram of that device is in the root's inbox."""
        if self.root_end.is_news(datagram):
            self._heard[device] = now

    def look(self, now: float) -> None:
        """After every event."""
        for device, end in self.worker_ends.items():
            if end.changed():
                end.check()
                if end.accepted > self._x_chunks:
                    raise Broken(f"device {device} took in a chunk of x twice")
        if not self._running:
            return
        if self.root_end.changed():
            self.root_end.check()
            self._look_at_partials()
        for device, missing in self._missing.items():
            silent_s = now - self._heard[device]
            patient = self._take_over or device in self._supplied_for
            if missing and silent_s > STALL_TIMEOUT_S + SLACK_S and not patient:
                raise Broken(f"device {device} has been silent for {silent_s:.2f} s, no error came")
        if now - self._began > ROUND_LIMIT_S + LONGEST_TROUBLE_S:
            raise Broken(f"{self._id} has not ended after {now - self._began:.1f} s")

    def end(self, now: float) -> None:
        """The root takes the round for complete."""
        self.look(now)
        self._running = False
        nbytes = self._tokens * self._layout.partial_row_bytes
        for device, end in self.worker_ends.items():
            if bytes(self._root.partial(device)) != self._expected[device][:nbytes]:
                raise Broken(f"{self._id} ended with a wrong partial of device {device}")
            if end.accepted != self._x_chunks and not self._root.statistics.chunks_supplied:
                raise Broken(
                    f"device {device} took in {end.accepted} chunks of x, of {self._x_chunks}"
                )

    def stalled(self, device: DeviceId, reachable_s: float, now: float) -> None:
        """The root gave the round up. `reachable_s`: for how much of the stall timeout nothing kept
        it from hearing that device."""
        self._running = False
        if self._take_over:
            raise Broken(f"device {device} is called stalled, but can be taken over from")
        silent_s = now - self._heard[device]
        alone = device not in self._supplied_for
        if (
            alone and silent_s < STALL_TIMEOUT_S - SLACK_S
        ):  # the root reads its clock once for many datagrams
            raise Broken(f"device {device} is called stalled after {silent_s:.2f} s")
        if not self._missing[device]:
            raise Broken(f"device {device} is called stalled, but owes nothing")
        if reachable_s > REACHABLE_S:
            raise Broken(f"device {device} was not heard, though {reachable_s:.1f} s reachable")

    def _look_at_partials(self) -> None:
        came = 0
        for device, missing in self._missing.items():
            memory, before = bytes(self._root.partial_memory(device)), self._before[device]
            if len(memory) != self._sizes[device]:
                raise Broken(f"the memory for device {device}'s partials has grown")
            expected = self._expected[device]
            for chunk in sorted(missing):
                start, stop = self._partial_grid.span(chunk, self._tokens)
                if memory[start:stop] == expected[start:stop]:
                    missing.remove(chunk)
                elif memory[start:stop] != before[start:stop]:
                    raise Broken(f"a wrong chunk {chunk} of device {device} was taken in")
            came += self._partial_grid.n_chunks(self._tokens) - len(missing)
        accepted = self.root_end.accepted - self._accepted_before
        supplied = self._root.statistics.chunks_supplied - self._supplied_before
        if accepted + supplied != came:
            raise Broken(f"the root took in {accepted} + {supplied} chunks, but {came} are there")
        if self._root.complete and any(self._missing.values()):
            raise Broken(f"{self._id} is called complete, but chunks are missing")

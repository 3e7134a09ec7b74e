"""The root's side of rounds: scatter x to every worker, gather a partial from each.

Strict: a round is complete when every chunk of every partial is there. Sans-IO: datagrams and the
time come in, datagrams and the time of the next timer go out. It knows neither sockets nor what
the bytes of x and of the partials mean.

    rounds.begin(RoundId(step, layer), tokens, x, now)
    while not rounds.complete:
        for destinations, datagram in rounds.datagrams(now):
            send(...)
        wait until rounds.deadline() for datagrams; rounds.receive(...) each of those that came
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

from halo_edge.sync.datagram import BODY, Message, Want, stamp_of
from halo_edge.sync.errors import DeviceStalled
from halo_edge.sync.ids import ROOT, DeviceId, RoundId
from halo_edge.sync.layout import RoundLayout
from halo_edge.sync.seal import Opener, Sealer
from halo_edge.sync.statistics import Statistics
from halo_edge.sync.timing import K_COPIES, Recovery, TimeoutEstimator
from halo_edge.sync.transfer import Incoming, Outgoing

K_MAX_STEP: Final = 0xFFFF_FFFF  # a year of 136 steps a second; then a new epoch


class _Worker:
    """What the root knows of one worker."""

    __slots__ = (
        "_answers",
        "alone",
        "device",
        "heard_at",
        "partial",
        "x",
        "x_resent",
        "x_sent_at",
    )

    def __init__(self, device: DeviceId, layout: RoundLayout, recovery: Recovery) -> None:
        self.device = device
        self.alone = (device,)
        window = recovery.window(layout.window)
        self.x = Outgoing(window)
        self.x_sent_at = 0.0
        self.x_resent = False
        self.partial = Incoming(layout.partial_grid(), window, recovery)
        self.heard_at = 0.0
        # Index: the bits of the number of tokens. Twice the tokens may take twice the time.
        self._answers = [
            TimeoutEstimator(
                recovery.initial_answer_s + recovery.initial_answer_per_token_s * (1 << bits),
                recovery.floor_s(),
            )
            for bits in range(layout.max_tokens.bit_length() + 1)
        ]

    def answer(self, tokens: int) -> TimeoutEstimator:
        """How long after x this worker's answer for so many tokens begins to come."""
        return self._answers[tokens.bit_length()]


class RootRounds:
    """One epoch's rounds, one at a time, with the same workers.

    For one key and epoch there may only ever be one of these (see seal.py).
    """

    def __init__(
        self,
        key: bytes,
        layout: RoundLayout,
        workers: Sequence[DeviceId],
        *,
        epoch: int,
        recovery: Recovery,
        stall_timeout_s: float,
    ) -> None:
        """`key`: 32 secret bytes. `epoch`: u16. `workers`: distinct, none of them ROOT.

        `stall_timeout_s` must be longer than a worker may compute without looking at its socket.
        """
        if len(set(workers)) != len(workers) or not all(0 < w <= 0xFFFF for w in workers):
            raise ValueError(f"workers must be distinct ids from 1 to 65535: {workers}")
        self.statistics = Statistics()
        self.complete = True
        """Whether all partials of the round begun last are there."""
        self._layout = layout
        self._grid = layout.x_grid()
        self._stall_timeout_s = stall_timeout_s
        self._sealer = Sealer(key, ROOT, epoch)
        self._opener = Opener(key, workers, epoch, layout.max_payload, self.statistics)
        self._workers = {device: _Worker(device, layout, recovery) for device in workers}
        self._x_buffer = memoryview(bytearray(self._grid.edges[-1]))
        self._x = self._x_buffer[:0]
        self._spans: list[tuple[int, int]] = []
        self._id = RoundId(-1, 0)
        self._tokens = 0
        self._incomplete = 0

    def begin(
        self, round_id: RoundId, tokens: int, x: bytes | bytearray | memoryview, now: float
    ) -> None:
        """Begins a round, which must come after the last one, complete or not.

        `x`: u8 [tokens * x_row_bytes]; it is copied. The partials of the last round are gone.
        Raises ValueError for what does not fit the layout.
        """
        if round_id <= self._id:
            raise ValueError(f"{round_id} does not come after {self._id}")
        if not (0 <= round_id.step <= K_MAX_STEP and 0 <= round_id.layer < self._layout.n_layers):
            raise ValueError(
                f"{round_id} does not exist in a model of {self._layout.n_layers} layers"
            )
        if not 1 <= tokens <= self._layout.max_tokens:
            raise ValueError(f"{tokens} tokens: a round has 1 to {self._layout.max_tokens}")
        if len(x) != tokens * self._grid.row_bytes:
            raise ValueError(f"x has {len(x)} bytes instead of {tokens * self._grid.row_bytes}")
        self._x = self._x_buffer[: len(x)]
        self._x[:] = x
        self._id = round_id
        self._tokens = tokens
        self._spans = self._grid.spans(tokens)
        n_chunks = len(self._spans)
        for worker in self._workers.values():
            worker.x.start(n_chunks)
            worker.x_resent = False
            worker.partial.start(tokens)
            worker.heard_at = now
        self._incomplete = len(self._workers)
        self.complete = not self._workers
        self.statistics.rounds += 1

    def partial(self, device: DeviceId) -> memoryview:
        """The device's encoded partial, u8 [tokens * partial_row_bytes], until the next `begin`.

        Whole only when the round is complete.
        """
        return self._workers[device].partial.matrix

    def partial_memory(self, device: DeviceId) -> memoryview:
        """Where that device's partial lies in every round, u8 [max_tokens * partial_row_bytes]."""
        return self._workers[device].partial.memory

    def deadline(self) -> float | None:
        """When to call `datagrams` even if nothing comes; None: not before something comes."""
        earliest = math.inf
        for worker in self._workers.values():
            if worker.partial.missing:
                earliest = min(
                    earliest, worker.partial.deadline, worker.heard_at + self._stall_timeout_s
                )
        return None if earliest == math.inf else earliest

    def datagrams(self, now: float) -> list[tuple[tuple[DeviceId, ...], bytes]]:
        """What to send now, each datagram to one or several devices, in this order.

        Call it after `begin`, after having received *all* that has come, and at the deadline.
        Raises DeviceStalled when a device that owes something has been silent too long.
        """
        outgoing: list[tuple[tuple[DeviceId, ...], bytes]] = []
        fresh: dict[int, list[_Worker]] = {}
        for worker in self._workers.values():
            if worker.partial.missing and now >= worker.heard_at + self._stall_timeout_s:
                raise DeviceStalled(worker.device, now - worker.heard_at)
            for chunk in worker.x.lost():
                outgoing += [self._send_x(chunk, [worker], worker.x.stamp, now)] * K_COPIES
                worker.x_resent = True
                self.statistics.chunks_resent += 1
            for chunk in worker.x.fresh():
                fresh.setdefault(chunk, []).append(worker)
            want = worker.partial.want(self._opener.highest(worker.device), now)
            if want is not None:
                datagram = self._seal(Message.WANT_PARTIAL, 0, stamp_of(now), want)
                outgoing += [(worker.alone, datagram)] * K_COPIES
                self.statistics.wants_sent += 1
        for chunk in sorted(fresh):  # in order: a receiver takes a gap for a loss
            outgoing.append(self._send_x(chunk, fresh[chunk], 0, now))
        for destinations, datagram in outgoing:
            self.statistics.datagrams_sent += len(destinations)
            self.statistics.bytes_sent += len(destinations) * len(datagram)
        return outgoing

    def receive(self, datagram: bytes | bytearray | memoryview, now: float) -> None:
        """Takes in what came from the network, whatever it is. The buffer is not kept."""
        opened = self._opener.open(datagram)
        if opened is None:
            return
        sender, body = opened
        worker = self._workers[sender]
        worker.heard_at = now
        message, kind, layer, step, tokens, chunk, stamp = BODY.unpack_from(body)
        round_id = (step, layer, kind)
        payload = memoryview(body)[BODY.size :]
        if round_id != self._id:
            if round_id < self._id:
                self.statistics.stale += 1
            else:
                self.statistics.malformed += 1
        elif tokens != self._tokens:
            self.statistics.malformed += 1
        elif message == Message.PARTIAL:
            self._receive_partial(worker, chunk, payload, stamp, now)
        elif message == Message.WANT_X:
            self._receive_want(worker, payload, stamp, now)
        else:
            self.statistics.malformed += 1

    def _receive_partial(
        self, worker: _Worker, chunk: int, payload: memoryview, stamp: int, now: float
    ) -> None:
        partial = worker.partial
        if not partial.fits(chunk, len(payload)):
            self.statistics.malformed += 1
            return
        if not partial.begun:
            # What answers a WANT does not tell how long computing took, nor does an answer to an x
            # of which something had to be sent again (Karn's rule, RFC 6298 section 3).
            if not (stamp or worker.x_resent):
                worker.answer(self._tokens).sample(now - worker.x_sent_at)
            worker.x.close()
        if not partial.receive(chunk, payload, stamp, now):
            self.statistics.duplicates += 1
            return
        if stamp:
            self.statistics.chunks_recovered += 1
        if not partial.missing:
            self._incomplete -= 1
            self.complete = not self._incomplete

    def _receive_want(self, worker: _Worker, payload: memoryview, stamp: int, now: float) -> None:
        want = Want.decode(payload, len(self._spans))
        if want is None:
            self.statistics.malformed += 1
            return
        self.statistics.wants_received += 1
        worker.x.wanted(want, stamp)
        worker.partial.expect(worker.answer(self._tokens).timeout_s, now)  # it lives

    def _send_x(
        self, chunk: int, workers: list[_Worker], stamp: int, now: float
    ) -> tuple[tuple[DeviceId, ...], bytes]:
        """Seals a chunk of x once for all of these workers."""
        start, stop = self._spans[chunk]
        datagram = self._seal(Message.X, chunk, stamp, self._x[start:stop])
        for worker in workers:
            worker.x.sent(chunk, self._sealer.counter)
            worker.x_sent_at = now
            worker.partial.expect(worker.answer(self._tokens).timeout_s, now)
        return tuple([worker.device for worker in workers]), datagram

    def _seal(self, message: Message, chunk: int, stamp: int, payload: bytes | memoryview) -> bytes:
        step, layer, kind = self._id
        return self._sealer.seal(
            BODY.pack(message, kind, layer, step, self._tokens, chunk, stamp) + payload
        )

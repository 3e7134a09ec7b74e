"""A worker's side of rounds: take x in, hand it out, send the partial back.

A worker keeps one round, the newest it has heard of. The root has one round at a time, so
a datagram of a newer one says that every older one is over. docs/protocol.md has the table of
states and messages. Sans-IO, as root.py; nor does it know what the bytes mean.

    receive each datagram that has come; send rounds.datagrams(now)
    round = rounds.ready()
    if round: compute the partial from round.x;
        receive each datagram that came meanwhile; rounds.answer(round.id, partial, now)
    wait until rounds.deadline() for more
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum
from typing import Final

from halo_edge.sync.datagram import BODY, Copies, Message, Want, stamp_of
from halo_edge.sync.ids import ROOT, DeviceId, RoundId, RoundKind
from halo_edge.sync.layout import RoundLayout
from halo_edge.sync.redundancy import LossMeter, copies_of, spread
from halo_edge.sync.seal import Opener, Sealer
from halo_edge.sync.statistics import Statistics
from halo_edge.sync.timing import K_COPIES, Recovery
from halo_edge.sync.transfer import Incoming, Outgoing

_KINDS: Final = frozenset(RoundKind)
# Looking into an enumeration takes longer than all the rest of a comparison.
_X: Final = int(Message.X)
_PARTIAL: Final = int(Message.PARTIAL)
_WANT_PARTIAL: Final = int(Message.WANT_PARTIAL)
_COPIES: Final = int(Message.COPIES)


@dataclass(frozen=True, slots=True)
class ReadyRound:
    """A round whose x is complete and waits to be answered."""

    id: RoundId
    tokens: int
    x: memoryview  # u8 [tokens * x_row_bytes]; valid until the next call of `receive`


class State(Enum):
    """Where a worker's round is."""

    IDLE = "no round yet"
    RECEIVING = "part of x is missing"
    COMPUTING = "x is complete, and the answer is awaited from the owner of this object"
    ANSWERED = "the partial is being sent, and kept to be sent again"


class WorkerRounds:
    """One epoch's rounds as one worker sees them.

    For one key, epoch and device there may only ever be one of these (see seal.py).
    """

    def __init__(
        self,
        key: bytes,
        layout: RoundLayout,
        device: DeviceId,
        *,
        epoch: int,
        recovery: Recovery,
    ) -> None:
        """`key`: 32 secret bytes. `epoch`: u16."""
        if not 0 < device <= 0xFFFF:
            raise ValueError(f"a worker is named 1 to 65535, not {device}")
        self.statistics = Statistics()
        self._layout = layout
        self._sealer = Sealer(key, device, epoch)
        self._opener = Opener(key, [ROOT], epoch, layout.max_payload, self.statistics)
        self._window = window = recovery.window(layout.window)
        self._x_grid = layout.x_grid()
        self._x = Incoming(self._x_grid, window, recovery, max_tries=recovery.max_tries)
        self._grid = layout.partial_grid()
        self._outgoing = Outgoing(window)
        self._buffer = memoryview(bytearray(self._grid.edges[-1]))
        self._partial = self._buffer[:0]
        self._spans: list[tuple[int, int]] = []
        self._state = State.IDLE
        self._id = RoundId(-1, 0)
        self._tokens = 0
        self._serial = 0  # of the answers sent, mod 256
        self._copies = Copies(1, 1)  # how often the root says that chunks travel
        self._loss = LossMeter(self._opener.window(ROOT))
        self._x_copies = 1  # of each chunk of this round's x
        self._x_measured = 0  # its chunks, or 0 if they come one window after the other
        self._link = (0, self._copies.encode(), 0, 0)  # what every datagram says of it

    def follow(self, previous: WorkerRounds) -> None:
        """Takes over what another epoch's rounds, used no more, know of the link to the root."""
        self._loss.follow(previous._loss)
        self._x.follow(previous._x)

    def receive(self, datagram: bytes | bytearray | memoryview, now: float) -> None:
        """Takes in what came from the network, whatever it is. The buffer is not kept."""
        opened = self._opener.open(datagram)
        if opened is None:
            return
        _, body = opened
        fields = BODY.unpack_from(body)
        message, kind, layer, step, tokens, chunk, stamp, serial, copies, _, _ = fields
        payload = memoryview(body)[BODY.size :]
        round_id = (step, layer, kind)
        if message == _COPIES:
            self._receive_copies(copies, payload)
            return
        if round_id == self._id:
            sensible = tokens == self._tokens
        elif round_id > self._id:
            sensible = (
                kind in _KINDS
                and layer < self._layout.n_layers
                and 1 <= tokens <= self._layout.max_tokens
            )
        else:
            self.statistics.stale += 1
            return
        want = None
        if sensible and message == _X:
            sensible = self._x_grid.fits(chunk, tokens, len(payload))
        elif sensible and message == _WANT_PARTIAL:
            want = Want.decode(payload, self._grid.n_chunks(tokens))
            sensible = want is not None
        else:
            sensible = False
        if not sensible:
            self.statistics.malformed += 1
            return
        if round_id != self._id:
            self._open_round(RoundId(step, layer, RoundKind(kind)), tokens)
        if want is None:
            if serial == self._loss.serial:
                self._loss.arrived += not stamp
            elif not stamp:
                first = self._opener.counter - chunk
                self._loss.matrix(serial, self._x_measured, self._x_copies, first)
            self._receive_x(chunk, payload, stamp, now)
        else:
            self._receive_want(want, stamp, now)

    @property
    def x_memory(self) -> memoryview:
        """Where x lies in every round, u8 [max_tokens * x_row_bytes]."""
        return self._x.memory

    def ready(self) -> ReadyRound | None:
        """The round to compute now: its x is complete, and it has not been answered."""
        if self._state is not State.COMPUTING:
            return None
        return ReadyRound(self._id, self._tokens, self._x.matrix)

    def answer(
        self, round_id: RoundId, partial: bytes | bytearray | memoryview, now: float
    ) -> None:
        """Makes `datagrams` send the partial, u8 [tokens * partial_row_bytes]; it is copied.

        Receive what has come during the computation first: a WANT_PARTIAL among it was sent by
        a root that waited, and would be taken for the loss of an answer. If a newer round was
        among it, this one is over, and the answer is dropped.

        Raises ValueError for a round that was not `ready`, or a partial of the wrong size.
        """
        if round_id < self._id:
            self.statistics.stale += 1
            return
        if round_id != self._id or self._state is not State.COMPUTING:
            raise ValueError(f"{round_id} does not wait for an answer")
        nbytes = self._tokens * self._grid.row_bytes
        if len(partial) != nbytes:
            raise ValueError(f"the partial has {len(partial)} bytes instead of {nbytes}")
        self._partial = self._buffer[:nbytes]
        self._partial[:] = partial
        self._spans = self._grid.spans(self._tokens)
        self._outgoing.start(len(self._spans))
        self._serial = (self._serial + 1) & 0xFF
        self._link = (self._serial, self._link[1], *self._loss.said)
        self._state = State.ANSWERED

    def deadline(self) -> float | None:
        """When to call `datagrams` even if nothing comes; None: not before something comes."""
        return None if self._x.deadline == math.inf else self._x.deadline

    def datagrams(self, now: float) -> list[bytes]:
        """What to send to the root now, in this order.

        Call it after having received *all* that has come, after `answer`, and at the deadline.
        """
        batch: list[bytes] = []
        recovering: list[tuple[bytes, int]] = []
        often = max(K_COPIES, self._copies.partial)
        want = self._x.want(self._opener.highest(ROOT), now)
        if want is not None:
            recovering.append((self._seal(Message.WANT_X, 0, stamp_of(now), want), often))
            self.statistics.wants_sent += 1
        if self._state is State.ANSWERED:
            outgoing = self._outgoing
            for chunk in outgoing.lost():
                recovering.append((self._send_partial(chunk, outgoing.stamp), often))
                self.statistics.chunks_resent += 1
            for chunk in outgoing.fresh():
                batch.append(self._send_partial(chunk, 0))
            if batch and self._copies.partial > 1:
                n_chunks = len(self._spans)
                batch *= copies_of(n_chunks, self._copies.partial, self._window)
        if recovering:
            batch = spread(recovering) + batch
        self.statistics.datagrams_sent += len(batch)
        self.statistics.bytes_sent += sum(map(len, batch))
        return batch

    def _open_round(self, round_id: RoundId, tokens: int) -> None:
        self._id = round_id
        self._tokens = tokens
        self._state = State.RECEIVING
        n_chunks = self._x_grid.n_chunks(tokens)
        self._x_copies = copies_of(n_chunks, self._copies.x, self._window)
        self._x_measured = n_chunks if n_chunks <= self._window else 0
        self._x.start(tokens, self._x_copies)
        self.statistics.rounds += 1

    def _receive_x(self, chunk: int, payload: memoryview, stamp: int, now: float) -> None:
        if not self._x.receive(chunk, payload, stamp, now):
            self.statistics.duplicates += 1
            return
        if stamp:
            self.statistics.chunks_recovered += 1
        if not self._x.missing:
            self._state = State.COMPUTING

    def _receive_copies(self, copies: int, payload: memoryview) -> None:
        told = Copies.decode(copies)
        if told is None or payload:
            self.statistics.malformed += 1
        else:
            self._copies = told
            self._link = (self._serial, copies, *self._loss.said)

    def _receive_want(self, want: Want, stamp: int, now: float) -> None:
        self.statistics.wants_received += 1
        if self._state is State.RECEIVING:
            self._x.ask(now)
        elif self._state is State.ANSWERED:
            self._outgoing.wanted(want, stamp)

    def _send_partial(self, chunk: int, stamp: int) -> bytes:
        start, stop = self._spans[chunk]
        datagram = self._seal(_PARTIAL, chunk, stamp, self._partial[start:stop])
        self._outgoing.sent(chunk, self._sealer.counter)
        return datagram

    def _seal(self, message: int, chunk: int, stamp: int, payload: bytes | memoryview) -> bytes:
        step, layer, kind = self._id
        return self._sealer.seal(
            BODY.pack(message, kind, layer, step, self._tokens, chunk, stamp, *self._link) + payload
        )

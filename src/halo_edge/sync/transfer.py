"""The two halves of carrying one matrix from one device to another.

The receiver drives: it alone has timers, and tells the sender with a WANT what it lacks. The
sender only reacts. A matrix of at most `window` chunks, none of them lost, is sent without a word
coming back: the answer acknowledges x, and the next round acknowledges the answer.

Nothing here knows of rounds, seals or who is root and who worker.
"""

from __future__ import annotations

import math

from halo_edge.sync.chunks import ChunkGrid
from halo_edge.sync.datagram import Want, age_of, stamp_of
from halo_edge.sync.timing import K_UNLIMITED, Recovery, TimeoutEstimator


def chunks_of(bitmap: int) -> list[int]:
    """The positions of the set bits, lowest first."""
    chunks = []
    while bitmap:
        lowest = bitmap & -bitmap
        chunks.append(lowest.bit_length() - 1)
        bitmap ^= lowest
    return chunks


class Outgoing:
    """The sender's half: which chunks of a matrix a peer may be sent now.

    Of the chunks not acknowledged, at most `window` have been sent; what was lost went through
    the window once, so it is sent again at once. Loss is recognised by overtaking, as in QUIC
    (RFC 9002 section 6.1.1), with a threshold of one datagram: every copy bears a new counter, so
    a missing chunk whose last counter is not above the highest the peer has seen was overtaken.
    QUIC waits for three; a needless copy costs us one chunk, waiting may cost everybody a round.
    """

    __slots__ = ("_counters", "_lost", "_n_chunks", "_next", "_open", "_window", "stamp")

    def __init__(self, window: int) -> None:
        self._window = window
        self.start(0)

    def start(self, n_chunks: int) -> None:
        """Forgets the last matrix and begins with one of so many chunks."""
        self._n_chunks = n_chunks
        self._open = (1 << n_chunks) - 1  # not acknowledged
        self._next = 0  # the first chunk never sent
        self._lost = 0  # sent, known to be lost, and not sent again yet
        self._counters = [0] * n_chunks  # of the datagram in which each chunk was sent last
        self.stamp = 0
        """That of the newest WANT; a chunk sent because of it echoes it."""

    def close(self) -> None:
        """The peer has shown that it has everything."""
        self._open = self._lost = 0
        self._next = self._n_chunks

    def wanted(self, want: Want, stamp: int) -> None:
        """Takes in what the peer says it lacks. A WANT that comes twice or late does no harm."""
        self._open &= want.missing
        unconfirmed = self._open & ((1 << self._next) - 1)
        if want.late:
            self._lost = unconfirmed
        else:
            self._lost &= unconfirmed
            for chunk in chunks_of(unconfirmed):
                if self._counters[chunk] <= want.seen:
                    self._lost |= 1 << chunk
        self.stamp = stamp

    def lost(self) -> list[int]:
        """The chunks to send again now. They count as sent."""
        if not self._lost:
            return []
        chunks = chunks_of(self._lost)
        self._lost = 0
        return chunks

    def fresh(self) -> range:
        """The chunks to send now for the first time, as many as the window has room for."""
        first = self._next
        if first == self._n_chunks:
            return range(0)
        room = self._window - (self._open & ((1 << first) - 1)).bit_count()
        self._next = min(self._n_chunks, first + max(0, room))
        return range(first, self._next)

    @property
    def exhausted(self) -> bool:
        """Whether every chunk has been sent, so that what is lost is all that is missing."""
        return self._next == self._n_chunks

    @property
    def any_lost(self) -> bool:
        """Whether something is to be sent again."""
        return self._lost != 0

    def sent(self, chunk: int, counter: int) -> None:
        """Notes the counter of the datagram in which the chunk went."""
        self._counters[chunk] = counter


class Incoming:
    """The receiver's half: the matrix as far as it has come, and when to ask for the rest.

    It asks (a WANT is due) in five cases:
    - a chunk has come before its predecessor: that one was probably lost, so at once (unless each
      is sent several times: then the others' copies may still come, and the next case decides);
    - nothing has come for as long as chunks usually are apart: the tail was probably lost;
    - what was asked for has not come within the link's round trip: the WANT, or the answer, was
      lost too; waits double until something comes;
    - a quarter of the window has come since the last WANT, of a matrix larger than the window:
      the sender needs to hear so to go on, and, at the end, to know that it is done;
    - the owner says so (`ask`, `expect`).
    """

    __slots__ = (
        "_ack_every",
        "_answer_due",
        "_asked",
        "_asked_stamp",
        "_buffer",
        "_copied",
        "_first_timeout_s",
        "_gap",
        "_grid",
        "_heard_at",
        "_highest",
        "_max_tries",
        "_n_chunks",
        "_recovery",
        "_round_trip",
        "_spans",
        "_tries",
        "_unreported",
        "_window",
        "_windowed",
        "asked_at",
        "begun",
        "deadline",
        "due",
        "matrix",
        "missing",
        "supplied",
    )

    def __init__(
        self,
        grid: ChunkGrid,
        window: int,
        recovery: Recovery,
        *,
        max_tries: int = K_UNLIMITED,
    ) -> None:
        """`max_tries`: WANTs in a row without anything coming; then it waits for its owner."""
        self._grid = grid
        self._window = window
        self._ack_every = max(1, window // 4)
        self._recovery = recovery
        self._max_tries = max_tries
        self._gap = TimeoutEstimator(recovery.initial_gap_s, recovery.gap_floor_s())
        self._round_trip = TimeoutEstimator(
            recovery.initial_round_trip_s,
            recovery.floor_s(),
            min_variation_s=recovery.min_variation_s,
        )
        self._buffer = memoryview(bytearray(grid.edges[-1]))
        self.start(0)

    def start(self, tokens: int, copies: int = 1) -> None:
        """Forgets the last matrix and begins with one of so many rows. The link is remembered.

        `copies`: how often each chunk is sent.
        """
        self._copied = copies > 1
        self._spans = self._grid.spans(tokens)
        self._n_chunks = len(self._spans)
        self._windowed = self._n_chunks > self._window
        self._highest = -1
        self.begun = False
        """Whether any chunk has come."""
        self._heard_at = 0.0
        self.due = False
        """Whether to call `want` whatever the time."""
        self._tries = 0
        self._unreported = 0
        self._asked_stamp = 0
        self._answer_due = 0.0  # asking again before then is pointless
        self._first_timeout_s = self._round_trip.timeout_s
        self._asked = 0  # of the chunks missing, those asked for
        self.asked_at = 0.0
        """When it asked last; 0 before."""
        self.matrix = self._buffer[: tokens * self._grid.row_bytes].toreadonly()
        """The rows, u8 [tokens * row_bytes]; those of missing chunks hold what was there before."""
        self.missing = (1 << self._n_chunks) - 1
        """Bit i is set where chunk i is not there."""
        self.supplied = 0
        """Bit i is set where chunk i is there, and has not come."""
        self.deadline = math.inf
        """When to call `want` though nothing has come."""

    def follow(self, previous: Incoming) -> None:
        """Takes over what another, used no more, knows of the same link."""
        self._gap, self._round_trip = previous._gap, previous._round_trip

    @property
    def memory(self) -> memoryview:
        """Where every matrix lies, u8 [max_tokens * row_bytes]."""
        return self._buffer.toreadonly()

    @property
    def whole(self) -> bool:
        """Whether every chunk has come, supplied or not."""
        return not (self.missing or self.supplied)

    @property
    def round_trip_s(self) -> float | None:
        """The link's, from a WANT to its answer: SRTT. None before the first."""
        return self._round_trip.mean_s

    @property
    def datagram_s(self) -> float | None:
        """The time between two chunks sent in one go. None before the first."""
        return self._gap.mean_s

    def lost(self, now: float) -> int:
        """The chunks missing that have been overtaken, or asked for, or are late."""
        if now >= self.deadline:
            return self.missing
        known = self._asked
        if not self._copied and self._highest > 0:
            known |= (1 << self._highest) - 1
        return self.missing & known

    def supply(self, chunk: int, payload: bytes | bytearray | memoryview) -> bool:
        """Puts in a chunk that has not come, and must fit the grid. False if it is there.

        It tells nothing of the link, and does not make a matrix `begun`.
        """
        bit = 1 << chunk
        if not self.missing & bit:
            return False
        self.missing ^= bit
        self.supplied |= bit
        start, stop = self._spans[chunk]
        self._buffer[start:stop] = payload
        if not self.missing:
            self.deadline = math.inf
            self.due = False
        return True

    def fits(self, chunk: int, nbytes: int) -> bool:
        """Whether the matrix has such a chunk, of just so many bytes."""
        if chunk >= self._n_chunks:
            return False
        start, stop = self._spans[chunk]
        return stop - start == nbytes

    def expect(self, within_s: float, now: float) -> None:
        """The first chunk ought to come by then. Of no effect when it has come."""
        if self._highest < 0:
            self._first_timeout_s = within_s
            self._tries = 0
            self.deadline = now + within_s

    def ask(self, now: float) -> None:
        """The peer has sent all there is: makes a WANT due, once the last can bring no more."""
        self._tries = 0
        self.deadline = min(self.deadline, max(now, self._answer_due))

    def receive(self, chunk: int, payload: memoryview, stamp: int, now: float) -> bool:
        """Puts in a chunk, which must fit the grid. False for one that had come already."""
        if stamp:  # it answers a WANT, which tells the link's round trip, retransmitted or not
            self._round_trip.sample(age_of(stamp, now))
            if stamp == self._asked_stamp:
                self._answer_due = 0.0
        bit = 1 << chunk
        if not self.missing & bit:
            if self.supplied & bit:  # late, and not needed any more
                self.supplied ^= bit
                self.begun = True
                self._highest = max(self._highest, chunk)
                self._heard_at = now
            return False
        self.missing ^= bit
        self.begun = True
        start, stop = self._spans[chunk]
        self._buffer[start:stop] = payload

        if chunk > self._highest:
            if chunk != self._highest + 1:
                between = (bit - 1) >> (self._highest + 1) << (self._highest + 1)
                if self.missing & between and not self._copied:
                    self.due = True
            elif self._unreported and not stamp:  # in one stream, without a pause to ask
                self._gap.sample(now - self._heard_at)
            self._highest = chunk
        self._heard_at = now
        self._tries = 0
        self._unreported += 1
        if self.missing:
            self.deadline = max(now + self._gap.timeout_s, self._answer_due)
            if self._windowed and self._unreported >= self._ack_every:
                self.due = True
        else:
            self.deadline = math.inf
            self.due = self._windowed
        return True

    def probe(self, seen: int, now: float) -> bytes:
        """The payload of a WANT for everything missing, whatever the timers say."""
        self._asked = self.missing
        self._asked_stamp = stamp_of(now)
        return Want(True, seen, self.missing).encode(self._n_chunks)

    def want(self, seen: int, now: float) -> bytes | None:
        """The payload of the WANT to send now, if one is due.

        `seen`: the highest counter received from the peer.
        """
        late = now >= self.deadline
        if not (late or self.due):
            return None
        if late:
            timeout_s = self._round_trip.timeout_s if self.begun else self._first_timeout_s
            self._answer_due = now + self._recovery.backed_off_s(timeout_s, self._tries)
            self._tries += 1
            self._asked = self.missing
            self.deadline = self._answer_due if self._tries < self._max_tries else math.inf
        elif self.missing:
            self._asked |= (1 << self._highest) - 1 if self._highest > 0 else 0
            self._answer_due = now + self._round_trip.timeout_s
            self.deadline = max(self.deadline, self._answer_due)
        self.due = False
        self._unreported = 0
        self._asked_stamp = stamp_of(now)
        self.asked_at = now
        return Want(late, seen, self.missing).encode(self._n_chunks)

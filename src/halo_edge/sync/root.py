"""The root's side of rounds: scatter x to every worker, gather a partial from each.

A round is complete when every chunk of every partial is there: come from its worker, or supplied by
the owner of this object in its place. Sans-IO: datagrams and the time come in, datagrams and the
time of the next timer go out. It knows neither sockets nor what the bytes of x and of the
partials mean.

    rounds.begin(RoundId(step, layer), tokens, x, now)
    while not rounds.complete:
        supply what devices that are `away` owe, and what of `overdue(now)` is not to be waited for
        for destinations, datagram in rounds.datagrams(now):
            send(...)
        until rounds.deadline(), or what came leaves something `unsettled`:
            wait for datagrams; rounds.receive(...) each of those that came
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from halo_edge.sync.datagram import BODY, Message, Want
from halo_edge.sync.errors import DeviceStalled
from halo_edge.sync.ids import DeviceId, RoundId
from halo_edge.sync.layout import RoundLayout
from halo_edge.sync.peer import LinkReport, Overdue, Peer
from halo_edge.sync.redundancy import copies_of, spread
from halo_edge.sync.root_sender import Addressed, RootSender, copied
from halo_edge.sync.seal import Opener
from halo_edge.sync.statistics import Statistics
from halo_edge.sync.timing import Recovery
from halo_edge.sync.watch import Watch

__all__ = ["LinkReport", "Overdue", "RootRounds"]

K_MAX_STEP: Final = 0xFFFF_FFFF  # a year of 136 steps a second; then a new epoch

K_CHOOSE_EVERY: Final = 16
"""Rounds between two looks at how often chunks ought to travel."""

_BODY_BYTES: Final = BODY.size
# Looking into an enumeration takes longer than all the rest of a comparison.
_PARTIAL: Final = int(Message.PARTIAL)
_WANT_X: Final = int(Message.WANT_X)


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
        statistics: Statistics | None = None,
        late: Counter[DeviceId] | None = None,
    ) -> None:
        """`key`: 32 secret bytes. `epoch`: u16. `workers`: distinct, none of them ROOT.

        `stall_timeout_s` must be longer than a worker may compute without looking at its socket.
        `statistics`, `late`: of the epochs before, to go on with.
        """
        if len(set(workers)) != len(workers) or not all(0 < w <= 0xFFFF for w in workers):
            raise ValueError(f"workers must be distinct ids from 1 to 65535: {workers}")
        self.statistics = Statistics() if statistics is None else statistics
        self.complete = True
        """Whether all partials of the round begun last are there."""
        self.unsettled = True
        """Whether what has come may have something to say to `overdue` and `datagrams` at once, and
        not only at the deadline."""
        self.recovered: Counter[tuple[int, int]] = Counter()
        """Chunks, by device and layer; of the epochs before, too."""
        self.late: Counter[DeviceId] = Counter() if late is None else late
        """Chunks that came when others were in their place, or when their round had ended without
        them."""
        self._layout = layout
        self._partial_grid = layout.partial_grid()
        self._recovery = recovery
        self._window = recovery.window(layout.window)
        self._sender = RootSender(key, epoch, layout)
        self._opener = Opener(key, workers, epoch, layout.max_payload, self.statistics)
        self._peers = {
            device: Peer(device, layout, recovery, stall_timeout_s, self._opener.window(device))
            for device in workers
        }
        self._watch = Watch(tuple(self._peers.values()), active=recovery.can_take_over)
        self._id = RoundId(-1, 0)
        self._tokens = 0
        self._n_partial = 1  # chunks of a partial of this round
        self._measured = 0  # the same, or 0 if they come one window after the other
        self._x_copied = False  # whether any worker is sent x several times
        self._incomplete = 0

    def follow(self, previous: RootRounds) -> None:
        """Takes over what another epoch's rounds, used no more, know of links to the same devices.
        Call it before the first round."""
        self.recovered = previous.recovered
        for device, peer in self._peers.items():
            if device in previous._peers:
                peer.follow(previous._peers[device])

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
        row_bytes = self._sender.grid.row_bytes
        if len(x) != tokens * row_bytes:
            raise ValueError(f"x has {len(x)} bytes instead of {tokens * row_bytes}")
        self._watch.begin_round(now)
        peers = self._peers.values()
        for peer in peers:
            peer.end(self._id, self._tokens, now)
        sender = self._sender
        sender.begin(round_id, tokens, x)
        self._id = round_id
        self._tokens = tokens
        n_x, n_partial = len(sender.spans), self._partial_grid.n_chunks(tokens)
        self._n_partial = n_partial
        self._measured = n_partial if n_partial <= self._window else 0
        self.statistics.rounds += 1
        choose = self._recovery.max_copies > 1 and not self.statistics.rounds % K_CHOOSE_EVERY
        copies_x = False
        for peer in peers:
            if choose:
                peer.choose_copies(tokens, n_x, n_partial)
            peer.begin(tokens, n_x, n_partial)
            copies_x = copies_x or peer.x_copies > 1
        self._x_copied = copies_x
        self._incomplete = len(self._peers)
        self.complete = not self._peers

    def partial(self, device: DeviceId) -> memoryview:
        """The device's encoded partial, u8 [tokens * partial_row_bytes], until the next `begin`.

        Whole only when the round is complete.
        """
        return self._peers[device].partial.matrix

    def partial_memory(self, device: DeviceId) -> memoryview:
        """Where that device's partial lies in every round, u8 [max_tokens * partial_row_bytes]."""
        return self._peers[device].partial.memory

    @property
    def partial_spans(self) -> Sequence[tuple[int, int]]:
        """The bytes [start, stop) of each chunk of a partial of this round."""
        return self._partial_grid.spans(self._tokens)

    def missing(self, device: DeviceId) -> int:
        """Bit i is set where chunk i of the device's partial is not there."""
        return self._peers[device].partial.missing

    @property
    def away(self) -> frozenset[DeviceId]:
        """The devices that owe something and have been silent for too long, as far as `overdue` and
        `datagrams` have found. The round waits for their chunks all the same: supply them."""
        return frozenset([peer.device for peer in self._peers.values() if peer.presence.away])

    def link(self, device: DeviceId) -> LinkReport:
        """How the link to that device is at present."""
        return self._peers[device].report(self._tokens)

    def silent_s(self, device: DeviceId, now: float) -> float:
        """Seconds since the last sign of life, or since the device came to owe something."""
        return now - self._peers[device].presence.silent_since

    def retune(self, *, max_copies: int, away_after_s: float) -> None:
        """Other values of these two of `Recovery`, from the next round on. Nobody is away then.
        What is reliable is sent once in any case."""
        copies = 1 if self._recovery.reliable else max_copies
        recovery = replace(self._recovery, max_copies=copies, away_after_s=away_after_s)
        self._recovery, self._watch.active = recovery, recovery.can_take_over
        for peer in self._peers.values():
            peer.retune(recovery)

    def supply(self, device: DeviceId, chunk: int, payload: bytes | bytearray | memoryview) -> None:
        """Puts a chunk of the owner's making in the place of one that is missing.

        `payload`: u8 [stop - start] of that chunk's `partial_spans`; it is copied. Of no effect
        where the chunk is there already; what comes later in its place is a duplicate.
        Raises ValueError for a chunk that does not exist, or another size.
        """
        peer = self._peers[device]
        if chunk < 0 or not peer.partial.fits(chunk, len(payload)):
            raise ValueError(f"chunk {chunk} of {len(payload)} bytes does not fit")
        if peer.partial.supply(chunk, payload):
            self.statistics.chunks_supplied += 1
            self._count(peer)

    def overdue(self, now: float) -> list[Overdue]:
        """What devices that are not away owe and is known to be lost, or late.

        Call it after having received *all* that has come, and before `datagrams`, which asks for
        what is still missing then.
        """
        self._watch.look(self._id, now)
        found = []
        for peer in self._peers.values():
            partial = peer.partial
            if partial.missing and not peer.presence.away:
                missing = partial.missing if peer.x_lost_at else partial.lost(now)
                if missing:
                    found.append(Overdue(peer.device, missing, peer.expected_s(self._tokens, now)))
        return found

    def deadline(self) -> float | None:
        """When to call `overdue` and `datagrams` even if nothing comes; None: not before something
        comes."""
        earliest = math.inf
        for peer in self._peers.values():
            if peer.partial.missing:
                presence = peer.presence
                if presence.away:
                    due = presence.probe_at
                else:
                    due = presence.silent_since + presence.limit_s
                    if peer.partial.deadline < due:
                        due = peer.partial.deadline
                if due < earliest:
                    earliest = due
        if earliest == math.inf:
            return None
        self._watch.will_listen_at(earliest)
        return earliest

    def datagrams(self, now: float) -> list[tuple[tuple[DeviceId, ...], bytes]]:
        """What to send now, each datagram to one or several devices, in this order.

        Call it after `begin`, after having received *all* that has come, and at the deadline.
        Raises DeviceStalled when a device that owes something, and cannot be taken over from, has
        been silent too long.
        """
        self._watch.look(self._id, now)
        sender = self._sender
        recovering: list[tuple[Addressed, int]] = []
        fresh: dict[int, list[Peer]] = {}
        told: list[Addressed] = []
        self.unsettled = False
        for peer in self._peers.values():
            partial, presence = peer.partial, peer.presence
            if presence.away:
                self._probe(peer, fresh, recovering, now)
                continue
            if partial.missing:
                silent_s = now - presence.silent_since
                if not self._watch.active and silent_s >= presence.limit_s:
                    raise DeviceStalled(peer.device, silent_s)
                for chunk in peer.x.lost():
                    resent = sender.x(chunk, [peer], peer.x.stamp, now)
                    recovering.append((resent, peer.copies_again))
                    peer.x_resent = True
                    self.statistics.chunks_resent += 1
            want = partial.want(self._opener.highest(peer.device), now)
            if want is not None:
                recovering.append((sender.want(peer, want, now), peer.copies_again))
                self.statistics.wants_sent += 1
            chunks = peer.x.fresh()
            for chunk in chunks:
                fresh.setdefault(chunk, []).append(peer)
            if chunks and peer.chosen != peer.copies:
                told.append(sender.copies(peer))
        # What recovers something goes first, with its copies: a new chunk that overtook one of
        # these would make it pass for lost.
        batch = spread(recovering) if recovering else []
        # In order: a receiver takes a gap for a loss.
        sent = [sender.x(chunk, fresh[chunk], 0, now) for chunk in sorted(fresh)]
        batch += sent
        batch += told
        if self._x_copied and fresh:
            batch += copied(sent, fresh)
        for destinations, datagram in batch:
            self.statistics.datagrams_sent += len(destinations)
            self.statistics.bytes_sent += len(destinations) * len(datagram)
        return batch

    def receive(self, datagram: bytes | bytearray | memoryview, now: float) -> None:
        """Takes in what came from the network, whatever it is. The buffer is not kept."""
        opened = self._opener.open(datagram)
        if opened is None:
            return
        sender, body = opened
        peer = self._peers[sender]
        fields = BODY.unpack_from(body)
        message, kind, layer, step, tokens, chunk, stamp, serial, copies, _, _ = fields
        round_id = (step, layer, kind)
        if fields[8:] != peer.said:
            peer.heard_of_link(*fields[8:])
        presence = peer.presence
        if presence.away:
            presence.heard(round_id, now)
            self.unsettled = True
        else:
            presence.silent_since = now
        payload = memoryview(body)[_BODY_BYTES:]
        if not stamp and message == _PARTIAL:
            if serial == peer.loss_from.serial:
                peer.loss_from.arrived += 1
            else:
                n_chunks = self._measured if tokens == self._tokens else 0
                times = copies_of(self._n_partial, copies & 0xF or 1, self._window)
                first = self._opener.counter - chunk
                peer.loss_from.matrix(serial, n_chunks, times, first)
        if round_id != self._id:
            if round_id < self._id:
                self.statistics.stale += 1
                if message == _PARTIAL:
                    if peer.owed(round_id, chunk):
                        self.late[sender] += 1
                    if not stamp:
                        peer.late_answer(round_id, now)
            else:
                self.statistics.malformed += 1
        elif tokens != self._tokens:
            self.statistics.malformed += 1
        elif message == _PARTIAL:
            self._receive_partial(peer, chunk, payload, stamp, now)
        elif message == _WANT_X:
            self._receive_want(peer, payload, stamp, now)
        else:
            self.statistics.malformed += 1

    def _receive_partial(
        self, peer: Peer, chunk: int, payload: memoryview, stamp: int, now: float
    ) -> None:
        partial = peer.partial
        if not partial.fits(chunk, len(payload)):
            self.statistics.malformed += 1
            return
        if not partial.begun:
            # What answers a WANT does not tell how long computing took, nor does an answer to an x
            # of which something had to be sent again (Karn's rule, RFC 6298 section 3).
            if not (stamp or peer.x_resent):
                peer.answer.sample(now - peer.x_sent_at)
            peer.x.close()
            peer.x_lost_at = 0.0
        supplied = partial.supplied
        if partial.receive(chunk, payload, stamp, now):
            if stamp:
                self.statistics.chunks_recovered += 1
                self.recovered[peer.device, self._id[1]] += 1
            if partial.due:
                self.unsettled = True
            if partial.missing:
                return
            self._count(peer)
        else:
            self.statistics.duplicates += 1
            if partial.supplied != supplied:
                self.late[peer.device] += 1
        if partial.whole:
            peer.presence.answered()

    def _count(self, peer: Peer) -> None:
        """A chunk of that device's partial that was missing is there."""
        if not peer.partial.missing:
            self._incomplete -= 1
            self.complete = not self._incomplete

    def _receive_want(self, peer: Peer, payload: memoryview, stamp: int, now: float) -> None:
        want = Want.decode(payload, len(self._sender.spans))
        if want is None:
            self.statistics.malformed += 1
            return
        self.statistics.wants_received += 1
        self.unsettled = True
        peer.x.wanted(want, stamp)
        if peer.x.any_lost and peer.x.exhausted:  # else the rest of x is under way meanwhile
            peer.x_lost_at = now
        peer.partial.expect(peer.answer.timeout_s, now)  # it lives

    def _probe(
        self,
        peer: Peer,
        fresh: dict[int, list[Peer]],
        recovering: list[tuple[Addressed, int]],
        now: float,
    ) -> None:
        """Sends something to a device that is away, when it is time: x, or a WANT where it has been
        sent that. One copy."""
        if now < peer.presence.probe_at:
            return
        peer.presence.probed(now, peer.answers.bound_s(self._tokens) or 0.0)
        peer.x_copies = 1
        chunks = peer.x.fresh()
        for chunk in chunks:
            fresh.setdefault(chunk, []).append(peer)
        if not chunks and peer.partial.missing:
            want = peer.partial.probe(self._opener.highest(peer.device), now)
            recovering.append((self._sender.want(peer, want, now), 1))
            self.statistics.wants_sent += 1

"""What the root puts on the wire: x of the round, and what it tells each worker, sealed.

It knows the round's bytes and how to seal them, not when or why anything is sent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

from halo_edge.sync.datagram import BODY, Message, stamp_of
from halo_edge.sync.ids import ROOT, DeviceId, RoundId
from halo_edge.sync.layout import RoundLayout
from halo_edge.sync.peer import Peer
from halo_edge.sync.seal import Sealer

Addressed: TypeAlias = tuple[tuple[DeviceId, ...], bytes]
"""A datagram, and to whom it goes."""


class RootSender:
    """One epoch's. For one key and epoch there may only ever be one of these (see seal.py)."""

    def __init__(self, key: bytes, epoch: int, layout: RoundLayout) -> None:
        self.grid = layout.x_grid()
        self.id = RoundId(-1, 0)
        self.tokens = 0
        self.spans: list[tuple[int, int]] = []
        """The bytes [start, stop) of each chunk of x."""
        self._sealer = Sealer(key, ROOT, epoch)
        self._x_buffer = memoryview(bytearray(self.grid.edges[-1]))
        self._serial = 0

    def begin(self, round_id: RoundId, tokens: int, x: bytes | bytearray | memoryview) -> None:
        """A round begins. `x`: u8 [tokens * x_row_bytes], copied."""
        self._x_buffer[: len(x)] = x
        self.id = round_id
        self.tokens = tokens
        self.spans = self.grid.spans(tokens)
        self._serial = (self._serial + 1) & 0xFF

    def x(self, chunk: int, peers: Sequence[Peer], stamp: int, now: float) -> Addressed:
        """A chunk of x, sealed once for all of these workers."""
        start, stop = self.spans[chunk]
        datagram = self._seal(Message.X, chunk, stamp, self._x_buffer[start:stop])
        for peer in peers:
            peer.x.sent(chunk, self._sealer.counter)
            peer.x_sent_at = now
            peer.partial.expect(peer.answer.timeout_s, now)
        return tuple([peer.device for peer in peers]), datagram

    def want(self, peer: Peer, want: bytes, now: float) -> Addressed:
        """A WANT of the worker's partial."""
        return peer.alone, self._seal(Message.WANT_PARTIAL, 0, stamp_of(now), want)

    def copies(self, peer: Peer) -> Addressed:
        """How often chunks are to travel from now on."""
        return peer.alone, self._seal(Message.COPIES, 0, 0, b"", peer.chosen.encode())

    def _seal(
        self, message: Message, chunk: int, stamp: int, payload: bytes | memoryview, copies: int = 0
    ) -> bytes:
        step, layer, kind = self.id
        return self._sealer.seal(
            BODY.pack(
                message,
                kind,
                layer,
                step,
                self.tokens,
                chunk,
                stamp,
                self._serial,
                copies,
                0,  # what is lost is the worker's to say
                0,
            )
            + payload
        )


def copied(sent: Sequence[Addressed], fresh: Mapping[int, Sequence[Peer]]) -> list[Addressed]:
    """The further copies of chunks that go for the first time: all second ones, then all third.

    `sent`: the datagrams of the chunks `fresh`, in order; to whom each goes.
    """
    most = max([peer.x_copies for peers in fresh.values() for peer in peers], default=1)
    batch = []
    for nth in range(1, most):
        for chunk, (_, datagram) in zip(sorted(fresh), sent, strict=True):
            devices = tuple([peer.device for peer in fresh[chunk] if peer.x_copies > nth])
            if devices:
                batch.append((devices, datagram))
    return batch

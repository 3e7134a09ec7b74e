"""One end of the protocol by hand: seals any body, and opens what the other end sends."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

from tests.sync.network import EPOCH, KEY

from halo_edge.sync.datagram import BODY, Message
from halo_edge.sync.ids import DeviceId
from halo_edge.sync.seal import Opener, Sealer
from halo_edge.sync.statistics import Statistics
from halo_edge.sync.timing import K_COPIES


class Said(NamedTuple):
    """A body, unpacked."""

    message: Message
    kind: int
    layer: int
    step: int
    tokens: int
    chunk: int
    stamp: int
    serial: int
    copies: int
    lost: int
    again: int
    payload: bytes


class Hand:
    """Speaks as `device`, with the right key."""

    def __init__(self, device: DeviceId, *hears: DeviceId) -> None:
        self.sealer = Sealer(KEY, device, EPOCH)
        self.opener = Opener(KEY, hears, EPOCH, 65_000, Statistics())

    def say(
        self,
        message: int,
        *,
        step: int = 1,
        layer: int = 2,
        kind: int = 0,
        tokens: int = 2,
        chunk: int = 0,
        stamp: int = 0,
        serial: int = 1,
        copies: int = 0x11,
        lost: int = 0,
        again: int = 0,
        payload: bytes = b"",
    ) -> bytes:
        """A datagram, by default of the second of the four layers, about two tokens."""
        body = BODY.pack(
            message, kind, layer, step, tokens, chunk, stamp, serial, copies, lost, again
        )
        return self.sealer.seal(body + payload)

    def hear(self, datagram: bytes) -> Said:
        """What a datagram says; it must be new and for us."""
        opened = self.opener.open(datagram)
        assert opened is not None
        said = Said._make((*BODY.unpack_from(opened[1]), opened[1][BODY.size :]))
        return said._replace(message=Message(said.message))

    def hear_all(self, datagrams: Iterable[bytes]) -> list[Said]:
        """What they say. Only what recovers something is there K_COPIES times."""
        heard = []
        for datagram, copies in Counter(datagrams).items():
            said = self.hear(datagram)
            recovers = said.message not in (Message.X, Message.PARTIAL) or said.stamp != 0
            assert copies == (K_COPIES if recovers else 1)
            heard.append(said)
        return heard

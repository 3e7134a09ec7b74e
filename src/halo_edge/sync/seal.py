"""Sealing and opening of datagrams: AES-256-GCM and the replay window.

The clear header is the nonce, so the tag covers it too. A nonce must never be used twice under one
key: it holds the epoch, the sender and the sender's counter, and a Sealer counts strictly up. So
for one key there may be one Sealer for each (epoch, sender), ever. A device that starts anew gets
a new epoch (or the session a new key).

What does not open properly is counted and dropped. Nothing here raises for what came from outside.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from halo_edge.sync.datagram import (
    COUNTER_BITS,
    COUNTER_MASK,
    HEADER,
    OVERHEAD,
    VERSION,
)
from halo_edge.sync.errors import CountersExhausted
from halo_edge.sync.ids import DeviceId
from halo_edge.sync.statistics import Statistics

KEY_BYTES: Final = 32
REPLAY_WINDOW: Final = 1024
"""How far behind the newest datagram of a sender another may arrive: about 1.2 MB of chunks."""

_HEADER_BYTES: Final = HEADER.size
_REPLAY_MASK: Final = (1 << REPLAY_WINDOW) - 1
K_MAX_EPOCH: Final = 0xFFFF


class Sealer:
    """Seals the datagrams of one device in one epoch."""

    __slots__ = ("_aead", "_epoch_bits", "_sender", "counter")

    def __init__(self, key: bytes, sender: DeviceId, epoch: int) -> None:
        """`key` is KEY_BYTES long and secret; `epoch` fits into 16 bits."""
        if len(key) != KEY_BYTES:
            raise ValueError(f"a session key has {KEY_BYTES} bytes, not {len(key)}")
        if not 0 <= epoch <= K_MAX_EPOCH:
            raise ValueError(f"epoch {epoch} does not fit into 16 bits: make a new session key")
        self._aead = AESGCM(key)
        self._sender = sender
        self._epoch_bits = epoch << COUNTER_BITS
        self.counter = 0
        """That of the newest datagram; the first has 1."""

    def seal(self, body: bytes) -> bytes:
        """A datagram with this body. Raises CountersExhausted after 2^48 - 1 of them."""
        if self.counter == COUNTER_MASK:
            raise CountersExhausted(
                f"device {self._sender} has sent 2^{COUNTER_BITS} datagrams under one key: "
                "start a new session"
            )
        self.counter += 1
        header = HEADER.pack(VERSION, 0, self._sender, self._epoch_bits | self.counter)
        return header + self._aead.encrypt(header, body, None)


class ReplayWindow:
    """Which counters of one sender have been received (RFC 4303 section 3.4.3)."""

    __slots__ = ("_received", "_repeats", "_watched", "highest")

    def __init__(self) -> None:
        self.highest = 0
        """The highest counter received; 0 when none was."""
        self._received = _REPLAY_MASK  # bit k: counter highest - k; nobody sends 0 and before
        self._watched = range(0)
        self._repeats = 0

    def is_new(self, counter: int) -> bool:
        """False for a counter received before, or so old that the window cannot tell."""
        age = self.highest - counter
        return age < 0 or (age < REPLAY_WINDOW and not self._received >> age & 1)

    def add(self, counter: int) -> None:
        """Notes a counter that is new and whose datagram opened properly."""
        ahead = counter - self.highest
        if ahead == 1:
            self.highest = counter
            self._received = (self._received << 1 | 1) & _REPLAY_MASK
        elif ahead <= 0:
            self._received |= 1 << -ahead
        else:
            self.highest = counter
            if ahead < REPLAY_WINDOW:
                self._received = (self._received << ahead | 1) & _REPLAY_MASK
            else:
                self._received = 1

    def watch(self, first: int, n: int) -> int:
        """Counts from now on how often these `n` counters come again, from `first`.

        Returns how often those that were watched before did.
        """
        repeats, self._repeats = self._repeats, 0
        self._watched = range(first, first + n)
        return repeats

    def repeated(self, counter: int) -> None:
        """Notes that a counter which is not new has come."""
        if counter in self._watched:
            self._repeats += 1


class Opener:
    """Opens the datagrams that others send to one device in one epoch."""

    __slots__ = ("_aead", "_epoch", "_max_bytes", "_statistics", "_windows", "counter")

    def __init__(
        self,
        key: bytes,
        senders: Iterable[DeviceId],
        epoch: int,
        max_payload: int,
        statistics: Statistics,
    ) -> None:
        """Accepts `senders` only, and no datagram with more than `max_payload` bytes of payload."""
        self._aead = AESGCM(key)
        self._epoch = epoch
        self._max_bytes = OVERHEAD + max_payload
        self._statistics = statistics
        self._windows: dict[int, ReplayWindow] = {sender: ReplayWindow() for sender in senders}
        self.counter = 0
        """That of the datagram opened last."""

    def window(self, sender: DeviceId) -> ReplayWindow:
        """What has been received from that device."""
        return self._windows[sender]

    def highest(self, sender: DeviceId) -> int:
        """The highest counter received from that device; 0 when none was."""
        return self._windows[sender].highest

    def open(self, datagram: bytes | bytearray | memoryview) -> tuple[DeviceId, bytes] | None:
        """The sender and body, or None for what is not a new datagram of this epoch to us.

        A body has at least BODY.size bytes.
        """
        statistics = self._statistics
        nbytes = len(datagram)
        statistics.datagrams_received += 1
        statistics.bytes_received += nbytes
        if not OVERHEAD <= nbytes <= self._max_bytes:
            statistics.wrong_length += 1
            return None
        version, flags, sender, number = HEADER.unpack_from(datagram)
        counter = number & COUNTER_MASK
        window = self._windows.get(sender)
        if version != VERSION or flags:
            statistics.wrong_version += 1
        elif window is None:
            statistics.unknown_sender += 1
        elif number >> COUNTER_BITS != self._epoch:
            statistics.wrong_epoch += 1
        elif counter <= window.highest and not window.is_new(counter):
            statistics.replayed += 1
            window.repeated(counter)
        else:
            sealed = memoryview(datagram)
            try:
                body = self._aead.decrypt(sealed[:_HEADER_BYTES], sealed[_HEADER_BYTES:], None)
            except InvalidTag:
                statistics.forged += 1
                return None
            window.add(counter)
            self.counter = counter
            return sender, body
        return None

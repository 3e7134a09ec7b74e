"""A simulated network that tells the checks what passes."""

from __future__ import annotations

from collections.abc import Callable

from halo_edge.lab.fuzz_checks import RoundChecks
from halo_edge.lab.sim_inbox import Inbox
from halo_edge.lab.sim_network import Network
from halo_edge.sync.ids import ROOT, DeviceId


class AuditedInbox(Inbox):
    """Tells what is taken out."""

    handed: Callable[[bytes], None] = staticmethod(lambda _: None)

    def take(self) -> bytes:
        datagram = super().take()
        self.handed(datagram)
        return datagram


class AuditedNetwork(Network):
    """Tells what is sent, and when the root is sent something that arrives whole."""

    checks: RoundChecks | None = None
    sent = 0

    def send(self, sender: int, receiver: int, datagram: bytes) -> None:
        self.sent += 1
        if self.checks is not None:
            self.checks.sends(DeviceId(receiver), datagram, self._env.now)
        super().send(sender, receiver, datagram)

    def _deliver(self, sender: int, receiver: int, datagram: bytes) -> None:
        inbox = self.ports[receiver].inbox
        overflowed = inbox.overflowed
        super()._deliver(sender, receiver, datagram)
        if receiver == ROOT and self.checks is not None and inbox.overflowed == overflowed:
            self.checks.arrives(DeviceId(sender), datagram, self._env.now)


def flip(datagram: bytes, bit: int) -> bytes | None:
    """The kernel lets it pass, as it does where nobody computes checksums."""
    if bit >= 8 * len(datagram):
        return None
    damaged = bytearray(datagram)
    damaged[bit // 8] ^= 1 << bit % 8
    return bytes(damaged)

"""What happened in a simulation, a line an event, byte for byte the same from the same seed.

    0.001500000 n0>n1 sent 1132
    0.002000000 n1 begin ffn

Times are seconds of the virtual clock.
"""

from __future__ import annotations

from collections.abc import Callable


class SimTrace:
    """Told what happens, it forgets it at once: what is used while nobody asks."""

    def sent(self, now: float, sender: str, receiver: str, nbytes: int) -> None:
        """A datagram of so many bytes leaves."""

    def arrived(self, now: float, sender: str, receiver: str, nbytes: int) -> None:
        """A datagram is in its receiver's inbox."""

    def lost(self, now: float, sender: str, receiver: str, nbytes: int) -> None:
        """A datagram is lost, on a link or for lack of room."""

    def begins(self, now: float, device: str, work: str) -> None:
        """A device wants to do something that takes CPU time."""

    def ends(self, now: float, device: str, work: str) -> None:
        """It is done."""

    def happens(self, now: float, what: str) -> None:
        """An event of the lab's description, or a token."""


class LineTrace(SimTrace):
    """Writes lines."""

    def __init__(self, write: Callable[[str], object]) -> None:
        self._write = write

    def sent(self, now: float, sender: str, receiver: str, nbytes: int) -> None:
        self._write(f"{now:.9f} {sender}>{receiver} sent {nbytes}\n")

    def arrived(self, now: float, sender: str, receiver: str, nbytes: int) -> None:
        self._write(f"{now:.9f} {sender}>{receiver} arrived {nbytes}\n")

    def lost(self, now: float, sender: str, receiver: str, nbytes: int) -> None:
        self._write(f"{now:.9f} {sender}>{receiver} lost {nbytes}\n")

    def begins(self, now: float, device: str, work: str) -> None:
        self._write(f"{now:.9f} {device} begin {work}\n")

    def ends(self, now: float, device: str, work: str) -> None:
        self._write(f"{now:.9f} {device} end {work}\n")

    def happens(self, now: float, what: str) -> None:
        self._write(f"{now:.9f} {what}\n")

"""How often a chunk is sent at once: how much of a link is lost, and what that makes worth while.

A lost chunk costs a recovery, and every device waits for it. A second copy, sent along with the
first, costs the time of one datagram. So with n chunks, each sent r times, a round is expected to
be longer, one way, than it would be if nothing could be lost, by

    r n t + n p q^(r-1) T

t: the time of a datagram on that link; T: the time of a recovery; p: the share of datagrams lost;
q: the share lost of those that are sent beside a lost one. p q^(r-1) is a chunk's probability to be
lost in all copies, and n times that bounds the probability that some chunk is, closely where it is
small. Independent losses have q = p, and copies help. In an outage of 20 ms everything is lost, so
q is near 1 and they do not: what is measured says so, without a model of bursts.

`choose_copies` is a pure function. `LossMeter` is the receiver's measure of p and q. Nothing here
sends, and nothing knows what a chunk is for.
"""

from __future__ import annotations

from typing import Final, NamedTuple, TypeVar

from halo_edge.sync.seal import ReplayWindow

T = TypeVar("T")

K_DATAGRAM_S: Final = 20e-6
"""The least that a datagram costs, however fast the link: a system call and a seal or a lookup at
each end."""
K_WORTH: Final = 0.8
"""A change has to bring the cost below so much of what it is, lest r flutters."""
K_MOST_LOST: Final = 0.5
"""More is an outage rather than a lossy link."""

K_GROUPS: Final = 192
"""p is a mean over about so many matrices: some 6 tokens of decoding."""
K_LOSSY_GROUPS: Final = 16
"""q is one over about so many matrices of which something was lost."""
K_SINGLES: Final = 64
"""Losses of matrices of one datagram tell nothing of q; so many of them make it forgotten, so that
copies are tried again on a link where they once did not help."""
K_PRIOR_DATAGRAMS: Final = 32
"""p begins as if so many had come."""
K_PRIOR_PAIRS: Final = 2
"""q is drawn to p by so many pairs: independence, until measured otherwise."""
K_SKIPPED: Final = 4
"""So many matrices in a row may be lost whole; more is an outage, or a device that was left out."""

_KEEP: Final = 1 - 1 / K_GROUPS
K_FULL: Final = 255  # a share of 1 on the wire


class Loss(NamedTuple):
    """What is lost one way on a link."""

    lost: float  # of all datagrams
    again: float  # of those sent beside a lost one

    def encode(self) -> tuple[int, int]:
        """Two bytes, in 1/255."""
        return round(self.lost * K_FULL), round(self.again * K_FULL)

    @classmethod
    def decode(cls, lost: int, again: int) -> Loss:
        """Any two bytes make sense."""
        return cls(lost / K_FULL, again / K_FULL)


NO_LOSS: Final = Loss(0.0, 0.0)


def cost_s(copies: int, n_chunks: int, loss: Loss, datagram_s: float, recover_s: float) -> float:
    """What a round is expected to take longer for the datagrams and losses of one way."""
    lost = min(loss.lost, K_MOST_LOST)
    again = max(lost, loss.again)
    missing = n_chunks * lost * again ** (copies - 1)
    return copies * n_chunks * datagram_s + missing * recover_s


def choose_copies(
    current: int,
    n_chunks: int,
    loss: Loss,
    *,
    datagram_s: float,
    recover_s: float,
    most: int,
) -> int:
    """How often to send each of `n_chunks` from now on, 1 ... `most`; `current`: until now."""
    if not loss.lost:
        return 1
    costs = [cost_s(copies, n_chunks, loss, datagram_s, recover_s) for copies in range(1, most + 1)]
    best = min(range(most), key=costs.__getitem__)
    if current <= most and costs[best] > K_WORTH * costs[current - 1]:
        return current
    return best + 1


def copies_of(n_chunks: int, copies: int, window: int) -> int:
    """How often the chunks of a matrix of so many travel on a link where small ones do `copies`.

    All copies together stay within the window, which is what the receiver's buffers hold. What is
    larger has other chunks under way while one is recovered.
    """
    return 1 if copies == 1 else max(1, min(copies, window // n_chunks))


def spread(sent: list[tuple[T, int]]) -> list[T]:
    """What is sent, each thing so often: first all of it once, then all second copies, and so on.

    As late as can be at no cost, for what lost the first may be over by then.
    """
    batch = [each for each, _ in sent]
    for nth in range(1, max([copies for _, copies in sent], default=1)):
        batch += [each for each, copies in sent if copies > nth]
    return batch


class LossMeter:
    """A receiver's measure of what is lost of the matrices of one peer.

    All chunks of a small matrix are sent in one go: n chunks r times, n r datagrams. How many of
    these came is known when the next matrix comes. One that did not come at all shows as a gap
    in the sender's serial numbers.
    """

    __slots__ = (
        "_all",
        "_lost",
        "_pairs",
        "_pairs_lost",
        "_sent",
        "_watching",
        "_window",
        "arrived",
        "loss",
        "said",
        "serial",
    )

    def __init__(self, window: ReplayWindow) -> None:
        """`window`: the peer's, which counts the copies that it drops."""
        self._window = window
        self.serial = 0
        """Of the matrix that comes now."""
        self.arrived = 0
        """Chunks of it that have come unasked."""
        self._sent = 0  # datagrams of it; 0: not to be measured
        self._watching = False
        self._all = float(K_PRIOR_DATAGRAMS)
        self._lost = 0.0
        self._pairs = 0.0
        self._pairs_lost = 0.0
        self.loss = NO_LOSS
        self.said = NO_LOSS.encode()
        """`loss` on the wire."""

    def follow(self, previous: LossMeter) -> None:
        """Goes on from what another has measured on the same link."""
        self._all, self._lost = previous._all, previous._lost
        self._pairs, self._pairs_lost = previous._pairs, previous._pairs_lost
        self.loss, self.said = previous.loss, previous.said

    def matrix(self, serial: int, n_chunks: int, copies: int, first: int) -> None:
        """A chunk has come unasked, of another matrix than the one before; call it only then, and
        count in `arrived` otherwise.

        `serial`: the matrix's, mod 256, which has `n_chunks`, sent in a row, each `copies` times;
        `first`: the counter of chunk 0. `n_chunks` 0: do not measure this matrix.
        """
        ahead = (serial - self.serial) & 0xFF
        if ahead >= 128:  # overtaken by the next
            return
        sent, arrived = self._sent, self.arrived
        if self._watching or copies > 1:
            self._watching = copies > 1
            arrived += self._window.watch(first, n_chunks if self._watching else 0)
        if sent:
            if arrived < sent or self._lost or ahead > 1:
                self._add(sent, max(0, sent - arrived))
                if ahead <= 1 + K_SKIPPED:
                    for _ in range(ahead - 1):
                        self._add(sent, sent)
            else:
                self._all = self._all * _KEEP + sent
        self.serial, self.arrived, self._sent = serial, 1, n_chunks * copies

    def _add(self, sent: int, lost: int) -> None:
        self._all = self._all * _KEEP + sent
        self._lost = self._lost * _KEEP + lost
        if lost:
            keep = 1 - 1 / (K_LOSSY_GROUPS if sent > 1 else K_SINGLES)
            self._pairs = self._pairs * keep + lost * (sent - 1)
            self._pairs_lost = self._pairs_lost * keep + lost * (lost - 1)
        share = self._lost / self._all
        again = (self._pairs_lost + K_PRIOR_PAIRS * share) / (self._pairs + K_PRIOR_PAIRS)
        self.loss = Loss(share, max(share, again))
        self.said = self.loss.encode()
        if not self.said[0]:
            self._lost = 0.0  # so little that it does not show: as good as none

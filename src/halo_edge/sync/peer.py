"""What the root knows of one worker: x on its way there, the partial on its way back, the link.

It judges (what is overdue, for how long yet, how many copies pay), and leaves sealing and the round
as a whole to root.py. Nothing here knows what the bytes mean.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from typing import Final, NamedTuple

from halo_edge.sync.answers import AnswerTimes
from halo_edge.sync.datagram import K_MOST_COPIES, Copies
from halo_edge.sync.ids import DeviceId
from halo_edge.sync.layout import RoundLayout
from halo_edge.sync.presence import Event, Presence
from halo_edge.sync.redundancy import (
    K_DATAGRAM_S,
    NO_LOSS,
    Loss,
    LossMeter,
    choose_copies,
    copies_of,
)
from halo_edge.sync.seal import ReplayWindow
from halo_edge.sync.timing import K_AWAY_ANSWERS, K_COPIES, Recovery
from halo_edge.sync.transfer import Incoming, Outgoing

K_LATE_ROUNDS: Final = 16
"""So many rounds that ended without a worker's answer are remembered, to learn from it when it
comes after all."""

_ONCE: Final = Copies(1, 1)


class Overdue(NamedTuple):
    """Chunks that a device owes, known to be lost or late.

    `missing`: bit i is set for chunk i. `expected_s`: so many seconds from now until they are
    here, if the round goes on recovering them.
    """

    device: DeviceId
    missing: int
    expected_s: float


@dataclass(frozen=True, slots=True)
class LinkReport:
    """How the link to a worker is at present, as far as the root knows.

    `srtt_s`: of the link alone, None before anything had to be asked for; `answer_s`: from x to
    the partial of the last round's number of tokens, None before the first. `loss_to`, `loss_from`:
    the share of datagrams lost to and from the worker; `again_to`, `again_from`: of those sent
    beside a lost one. `copies_to`, `copies_from`: how often
    chunks of small matrices are sent.
    """

    srtt_s: float | None
    answer_s: float | None
    fastest_s: float | None
    loss_to: float
    loss_from: float
    again_to: float
    again_from: float
    copies_to: int
    copies_from: int


class _Unanswered(NamedTuple):
    """A round that ended before the worker's answer came."""

    round_id: tuple[int, int, int]
    tokens: int
    x_sent_at: float


class Peer:
    """One worker."""

    __slots__ = (
        "_away_after_s",
        "_owed",
        "_recovery",
        "_stall_timeout_s",
        "_unanswered",
        "_window",
        "alone",
        "answer",
        "answers",
        "chosen",
        "copies",
        "device",
        "loss_from",
        "loss_to",
        "partial",
        "presence",
        "said",
        "x",
        "x_copies",
        "x_lost_at",
        "x_resent",
        "x_sent_at",
    )

    def __init__(
        self,
        device: DeviceId,
        layout: RoundLayout,
        recovery: Recovery,
        stall_timeout_s: float,
        replays: ReplayWindow,
    ) -> None:
        """`replays`: of the datagrams that come from the worker."""
        self.device = device
        self.alone = (device,)
        self._recovery = recovery
        self._away_after_s = recovery.away_after_s
        self._stall_timeout_s = stall_timeout_s
        self._window = window = recovery.window(layout.window)
        self.x = Outgoing(window)
        self.x_copies = 1
        """How often each chunk of this round's x is sent."""
        self.x_sent_at = 0.0
        self.x_resent = False
        self.x_lost_at = 0.0
        """When the worker said last that part of x is lost; 0 if it has not, or answered since."""
        self.partial = Incoming(layout.partial_grid(), window, recovery)
        self.answers = AnswerTimes(layout.max_tokens, recovery)
        self.answer = self.answers.of(1)
        """That of the round's number of tokens."""
        self.presence = Presence(recovery.probe_interval_s)
        self.loss_to = NO_LOSS
        self.loss_from = LossMeter(replays)
        self.chosen = _ONCE
        """How often chunks are to travel."""
        self.copies = _ONCE
        """How often they do, for what the worker knows."""
        self.said = (_ONCE.encode(), 0, 0)
        """The last of what `heard_of_link` was told."""
        self._unanswered: deque[_Unanswered] = deque(maxlen=K_LATE_ROUNDS)
        self._owed: dict[tuple[int, int, int], int] = {}
        """Of earlier rounds, the last `K_LATE_ROUNDS` at the most: bit i is set where chunk i has
        not come."""

    def follow(self, previous: Peer) -> None:
        """Takes over what another epoch's, used no more, knows of the link. How long answers take
        may have changed."""
        self.partial.follow(previous.partial)
        self.loss_from.follow(previous.loss_from)
        self.loss_to = previous.loss_to
        self.chosen = previous.chosen

    def retune(self, recovery: Recovery) -> None:
        """Other copies, and another patience, from the next round on; it is PRESENT."""
        self._recovery, self._away_after_s = recovery, recovery.away_after_s
        self.chosen = _ONCE
        silent_since = self.presence.silent_since
        self.presence = Presence(recovery.probe_interval_s)
        self.presence.silent_since = silent_since

    def end(self, round_id: tuple[int, int, int], tokens: int, now: float) -> None:
        """Another round is about to begin."""
        if self.partial.whole:
            self.presence.silent_since = now  # it owes nothing
        elif self.x.exhausted:  # else it cannot answer
            if len(self._owed) == K_LATE_ROUNDS:
                del self._owed[next(iter(self._owed))]
            self._owed[round_id] = self.partial.missing | self.partial.supplied
            if not (self.partial.begun or self.x_resent):
                self._unanswered.append(_Unanswered(round_id, tokens, self.x_sent_at))

    def begin(self, tokens: int, n_x: int, n_partial: int) -> None:
        """A round begins, with so many chunks of x, and of the partial."""
        presence = self.presence
        self.answer = answer = self.answers.of(tokens)
        presence.limit_s = self._stall_timeout_s
        if self._away_after_s != math.inf:
            bound_s = answer.bound_s or self.answers.bound_s(tokens)
            if bound_s is not None:  # else nothing is known of it: patience
                presence.limit_s = max(self._away_after_s, K_AWAY_ANSWERS * bound_s)
        self.x.start(n_x)
        self.x_resent = False
        self.x_lost_at = 0.0
        x, partial = self.copies
        self.x_copies = 1 if x == 1 or presence.away else copies_of(n_x, x, self._window)
        copies = 1 if partial == 1 else copies_of(n_partial, partial, self._window)
        self.partial.start(tokens, copies)

    def missed(self, event: Event, round_id: tuple[int, int, int], now: float) -> None:
        """It is SILENT or OVERDUE; the second may leave it where it is."""
        self.presence.missed(event, round_id, now)
        if self.presence.away:
            self._unanswered.clear()  # what comes of it now tells nothing but how long it was away

    def owed(self, round_id: tuple[int, int, int], chunk: int) -> bool:
        """Whether that chunk, which has come, had not when its round ended. True once."""
        owed, bit = self._owed.get(round_id, 0), 1 << chunk
        if not owed & bit:
            return False
        self._owed[round_id] = owed ^ bit
        return True

    def late_answer(self, round_id: tuple[int, int, int], now: float) -> None:
        """A chunk of an earlier round has come, unasked: learn how long its answer took.

        Without this a device that has become slower would be late for ever: its rounds end
        without it, so that its answers are never those to the round in progress.
        """
        for n, round_ in enumerate(self._unanswered):
            if round_.round_id == round_id:
                self.answers.of(round_.tokens).sample(now - round_.x_sent_at)
                del self._unanswered[n]
                return

    def expected_s(self, tokens: int, now: float) -> float:
        """Seconds until what is missing will be here, if it is asked for."""
        partial = self.partial
        takes_s = self._round_trip_s(tokens)
        asked_at = partial.asked_at
        if self.x_lost_at:
            takes_s += self.answers.mean_s(tokens) or takes_s
            asked_at = max(asked_at, self.x_lost_at)
        left_s = takes_s
        if asked_at:
            left_s = asked_at + takes_s - now
            if left_s <= 0:  # lost again: it will be asked for again
                left_s = max(0.0, partial.deadline - now) + takes_s
        # What has lasted so long already goes on for about as long again.
        return max(left_s, now - self.presence.silent_since)

    def choose_copies(self, tokens: int, n_x: int, n_partial: int) -> None:
        """Looks anew at how often chunks ought to travel. For rounds of the usual size only."""
        datagram_s = max(K_DATAGRAM_S, self.partial.datagram_s or 0.0)
        round_trip_s = self._round_trip_s(tokens)
        answer = self.answers.of(tokens)
        answer_s = answer.mean_s or 0.0
        window = self._window
        most = min(self._recovery.max_copies, K_MOST_COPIES)
        x, partial = self.chosen
        if n_x <= window // 2:
            x = choose_copies(
                x,
                n_x,
                self.loss_to,
                datagram_s=datagram_s,
                recover_s=answer.timeout_s + round_trip_s,
                most=most,
            )
        if n_partial <= window // 2:
            partial = choose_copies(
                partial,
                n_partial,
                self.loss_from.loss,
                datagram_s=datagram_s,
                recover_s=answer.timeout_s - answer_s + round_trip_s,
                most=most,
            )
        self.chosen = Copies(x, partial)

    def heard_of_link(self, copies: int, lost: int, again: int) -> None:
        """What a worker's datagrams say: how often chunks travel, for what it knows; its losses.

        Nothing new if it is what is `said`.
        """
        self.said = (copies, lost, again)
        known = Copies.decode(copies)
        if known is not None and max(known) <= self._recovery.max_copies:
            self.copies = known
        self.loss_to = Loss.decode(lost, again)

    def report(self, tokens: int) -> LinkReport:
        """The link at present."""
        return LinkReport(
            srtt_s=self.partial.round_trip_s,
            answer_s=self.answers.mean_s(tokens),
            fastest_s=self.answers.of(tokens).fastest_s,
            loss_to=self.loss_to.lost,
            loss_from=self.loss_from.loss.lost,
            again_to=self.loss_to.again,
            again_from=self.loss_from.loss.again,
            copies_to=self.copies.x,
            copies_from=self.copies.partial,
        )

    @property
    def copies_again(self) -> int:
        """How often a WANT goes, or a chunk that is sent again."""
        return max(K_COPIES, self.copies.x)

    def _round_trip_s(self, tokens: int) -> float:
        """The link's, or before anything is known of that, what cannot be shorter."""
        known_s = self.partial.round_trip_s
        if known_s is None:
            known_s = self.answers.mean_s(tokens)
        return self._recovery.initial_round_trip_s if known_s is None else known_s

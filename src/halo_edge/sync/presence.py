"""Whether a worker is there: the rung "take over" of the ladder in docs/protocol.md.

A round waits for every worker. Where somebody else can do a worker's part, it need not wait for
one that has gone: cut off, stopped, dead. Nobody says so; there is only silence. The states:

    PRESENT   it answers. x is sent to it, what is missing is asked for.
    AWAY      it owed something and was silent for too long. It is asked nothing, and gets x only
              now and then, as a probe. The owner of the rounds supplies its chunks.
    RETURNED  it was away and has been heard again. It is treated as PRESENT, but the benefit of
              the doubt is gone until it has answered a round whole: a link that comes and goes
              would otherwise cost the silence that takes PRESENT to AWAY every time.

The table below is all there is to the transitions. Rules of this file:

- It knows events and times, neither datagrams nor rounds' contents. Who calls says what happened.
- "Silent" is a matter of the limit that the caller gives; `silent_since` is kept here, because it
  runs on from round to round as long as the device owes something at the end of each.
- Only a datagram of the round in which a device went away, or of a later one, says that it is back.
  What was under way, or stood in the queues of a process that was stopped, is of before and says
  nothing of now.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from enum import Enum
from typing import Final

from halo_edge.sync.ids import RoundId

K_PROBE_DOUBLINGS: Final = 3
"""20 ms, 40, 80, 160: its part is done by others, so that it is not missed for so long."""


class State(Enum):
    """Where a worker is, as far as the root can tell."""

    PRESENT = "it answers"
    RETURNED = "it was away and has been heard again, but has not answered a round whole since"
    AWAY = "it owes something and has been silent for too long"


class Event(Enum):
    """What happens to a worker's presence."""

    SILENT = "nothing has come for as long as the limit"
    OVERDUE = "its answer has not begun to come within the answer timeout"
    HEARD = "a datagram of a round not older than the one in which it went away"
    ANSWERED = "every chunk of its partial has come from itself"


_TABLE: Final[Mapping[State, Mapping[Event, State]]] = {
    State.PRESENT: {
        Event.SILENT: State.AWAY,
        Event.OVERDUE: State.PRESENT,
        Event.HEARD: State.PRESENT,
        Event.ANSWERED: State.PRESENT,
    },
    State.RETURNED: {
        Event.SILENT: State.AWAY,
        Event.OVERDUE: State.AWAY,
        Event.HEARD: State.RETURNED,
        Event.ANSWERED: State.PRESENT,
    },
    State.AWAY: {
        Event.SILENT: State.AWAY,
        Event.OVERDUE: State.AWAY,
        Event.HEARD: State.RETURNED,
        Event.ANSWERED: State.PRESENT,
    },
}


def after(state: State, event: Event) -> State:
    """The state that follows."""
    return _TABLE[state][event]


class Presence:
    """One worker's state, and since when it is silent."""

    __slots__ = (
        "_left_in",
        "_probe_interval_s",
        "_probes",
        "away",
        "limit_s",
        "probe_at",
        "silent_since",
        "state",
    )

    def __init__(self, probe_interval_s: float) -> None:
        self._probe_interval_s = probe_interval_s
        self._left_in: tuple[int, int, int] = RoundId(-1, 0)  # the round in which it went away
        self._probes = 0  # since it went away
        self.state = State.PRESENT
        self.away = False
        """Whether `state` is AWAY."""
        self.silent_since = 0.0
        """The last sign of life, or when it came to owe something after having owed nothing."""
        self.limit_s = math.inf
        """So long a silence is SILENT."""
        self.probe_at = math.inf
        """While it is away: when to send it something again."""

    def heard(self, round_id: tuple[int, int, int], now: float) -> None:
        """A datagram about that round has come from it."""
        if not self.away:
            self.silent_since = now
        elif round_id >= self._left_in:
            self._become(after(self.state, Event.HEARD))
            self.silent_since = now

    def answered(self) -> None:
        """It has answered a round whole."""
        if self.state is not State.PRESENT:
            self._become(after(self.state, Event.ANSWERED))

    def missed(self, event: Event, round_id: tuple[int, int, int], now: float) -> None:
        """SILENT or OVERDUE, in that round."""
        state = after(self.state, event)
        if state is State.AWAY and not self.away:
            self._left_in = round_id
            self._probes = 0
            self.probe_at = now + self._probe_interval_s
        self._become(state)

    def probed(self, now: float, answer_s: float) -> None:
        """It has been sent something though it is away. It used to answer in `answer_s`.

        A newer round ends the one that a worker computes, so that probes which come faster than it
        computes would keep it from ever answering: the time between them doubles.
        """
        interval_s = max(self._probe_interval_s, 2 * answer_s)
        self.probe_at = now + interval_s * (1 << min(self._probes, K_PROBE_DOUBLINGS))
        self._probes += 1

    def _become(self, state: State) -> None:
        self.state = state
        self.away = state is State.AWAY

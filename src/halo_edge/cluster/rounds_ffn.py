"""The FFN from the rounds of a cluster: scatter x, compute the own shard, gather the partials, add
them.

The root's side of the picture in DESIGN.md. What happens to a chunk that is missing is `ladder`'s
business, who holds what an `Epoch`'s.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from halo_edge.cluster.epoch import Epoch
from halo_edge.cluster.ladder import Counts, Ladder, RoundPausedError
from halo_edge.cluster.links import RootLink
from halo_edge.cluster.relaxation import Happened, RelaxOptions, Spent
from halo_edge.cluster.relaxing import Relaxing
from halo_edge.cluster.speed import DecodeTimes, RootClock
from halo_edge.compute.rows import Rows
from halo_edge.compute.wire import RowEncoder
from halo_edge.engine.trace import Activity, Tracer
from halo_edge.errors import HaloError
from halo_edge.sync.budget import Budget, SequenceKey
from halo_edge.sync.ids import DeviceId, RoundId
from halo_edge.sync.peer import LinkReport

# A device that has been silent for so long, and several of its answers' times, is computed for.
AWAY_AFTER_S: Final = 0.05
# A generation waits for so long until what nobody could compute was loaded elsewhere: a third of a
# 7B model over 100 Mbit/s takes two minutes.
PAUSE_S: Final = 300.0
# How often it looks meanwhile whether it has been, or the worker is back.
PAUSED_WAIT_S: Final = 0.02

_ENCODE_X: Final = Activity.ENCODE_X
_SEND_X: Final = Activity.SEND_X
_OWN_FFN: Final = Activity.OWN_FFN
_RECEIVE_PARTIALS: Final = Activity.RECEIVE_PARTIALS
_ADD_PARTIALS: Final = Activity.ADD_PARTIALS
_LEARN: Final = Activity.LEARN


@dataclass(frozen=True)
class _Next:
    """`relaxing`: made for these options, if they relax anything."""

    epoch: Epoch
    options: RelaxOptions
    relaxing: Relaxing | None


class RoundsFfn:
    """A `Gather` (engine room) over a cluster.

    `x` encodes the step's x; `ffn` is where the result goes. `lost` gives a worker that has left
    the cluster. `tracer` is told where the rounds' time goes. `pause` is told of a worker without
    which a round cannot go on, and has another epoch made; None: there can be none.
    """

    def __init__(
        self,
        epoch: Epoch,
        options: RelaxOptions,
        link: RootLink,
        x: RowEncoder,
        ffn: Rows,
        lost: Callable[[], str | None],
        tracer: Tracer,
        pause: Callable[[str], None] | None = None,
        *,
        relaxable: bool = False,
    ) -> None:
        """`relaxable`: whether epochs may be, if not the first: one in a hurry is strict. Raises
        `HaloError` for options that take a profile, where there is none."""
        self._link = link
        self._x = x
        self._ffn = ffn
        self._lost = lost
        self._tracer = tracer
        self._pause = pause
        self._paused_for: str | None = None
        self._step = -1
        self._clock = RootClock()
        self._counts = Counts()
        self._next: _Next | None = None
        self._epoch = epoch
        self._may_relax = relaxable
        self._strict_rounds = 0
        self._budget = Budget(options.kl_budget)
        self._on_request = False  # whether a sequence has had a budget where there is none
        self.relax(options)

    def ffn(self, layer: int, tokens: int) -> None:
        """See `Gather.ffn`. Raises `HaloError` when a worker stalls or has left, unless it can be
        stood in for."""
        if layer == 0:
            self._step += 1
            if self._next is not None:
                self._switch()
        while not self._round(layer, tokens):  # it was begun anew, in another epoch
            self._switch()

    def _round(self, layer: int, tokens: int) -> bool:
        """False if it was given up, because there is another epoch."""
        tracer, epoch, relaxing = self._tracer, self._epoch, self._relaxing
        counted = epoch.rounds.statistics
        self._clock.begin(layer)
        tracer.begin_round()
        if epoch.workers:
            self._scatter(layer, tokens)
        else:  # nobody to encode x for, and nothing to add
            counted.rounds += 1
        epoch.own_clock.begin()
        if not epoch.own.run(layer, tokens):
            self._ffn.clear(tokens)
        if tokens == 1:
            epoch.own_clock.end()
        else:
            epoch.own_clock.skip()
        tracer.lap(_OWN_FFN)
        if relaxing is not None:
            relaxing.begin_round(layer, tokens)
        elif self._wants_relaxing:
            self._strict_rounds += 1
        if epoch.workers and not self._gather(layer, tokens):
            return False
        tracer.end_round(
            counted.wants_sent, counted.retransmissions, counted.bytes_sent + counted.bytes_received
        )
        self._clock.end(tokens)
        return True

    def _scatter(self, layer: int, tokens: int) -> None:
        tracer, rounds, ladder = self._tracer, self._epoch.rounds, self._ladder
        x = self._x.encode(tokens)
        tracer.lap(_ENCODE_X)
        now = time.monotonic()
        ladder.begin_round(now)
        rounds.begin(RoundId(self._step, layer), tokens, x, now)
        ladder.send(now)
        tracer.lap(_SEND_X)

    def _gather(self, layer: int, tokens: int) -> bool:
        """See `_round`."""
        tracer, epoch, relaxing = self._tracer, self._epoch, self._relaxing
        if not self._collect(layer, tokens):
            return False
        tracer.lap(_RECEIVE_PARTIALS)
        epoch.partials.add(tokens)
        tracer.lap(_ADD_PARTIALS)
        if relaxing is not None and relaxing.learn(epoch.rounds):
            tracer.lap(_LEARN)
        return True

    def _collect(self, layer: int, tokens: int) -> bool:
        """False where what was missing will not come, and there is another epoch."""
        paused_at: float | None = None
        while True:
            try:
                self._ladder.collect(layer, tokens)
                self._paused_for = None  # it was there after all
                return True
            except RoundPausedError as paused:
                now = time.monotonic()
                if paused_at is None:
                    paused_at = now
                if self._pause is None or now - paused_at > PAUSE_S:
                    self._paused_for = None
                    raise
                if self._paused_for is None:
                    self._paused_for = paused.worker
                    self._pause(paused.worker)
            if self._next is not None:
                return False
            self._link.wait(PAUSED_WAIT_S)

    def relax(self, options: RelaxOptions) -> None:
        """From the next step on, for all sequences that have no budget of their own. Raises
        `HaloError` for what takes a profile and has none."""
        if options.relaxes:
            self._check_relaxable()
        self._options = options
        self._budget.change(options.kl_budget)
        self._begin()

    def open_account(self, sequence: SequenceKey, nats_per_token: float) -> None:
        """The sequence, which is about to begin, has a budget of its own. Between steps. Raises
        `HaloError` for what takes a profile and has none."""
        if nats_per_token > 0 and self._relaxing is None:
            self._check_relaxable()
            self._on_request = True
            self._begin()
        self._budget.open(sequence, nats_per_token)

    def close_account(self, sequence: SequenceKey) -> float:
        """The sequence has ended; what it has spent, in nats."""
        return self._budget.close(sequence)

    def adopt(self, epoch: Epoch) -> None:
        """Another plan, from the next step on. Any thread may say so; the last one counts."""
        options = self._options
        # Here and not at the switch: half a second for TinyLlama, in which no token would come.
        self._next = _Next(epoch, options, self._made_relaxing(epoch, options))

    @property
    def members(self) -> Mapping[DeviceId, str]:
        """The workers of the plan in use, by name."""
        return self._epoch.workers

    @property
    def ready(self) -> Mapping[DeviceId, str]:
        """Those of the plan that is in use from the next step on. Any thread may ask."""
        return self._newest.workers

    @property
    def relaxable(self) -> bool:
        """Whether rounds can be relaxed from the next step on. Any thread may ask."""
        return self._newest.relaxable is not None

    @property
    def away(self) -> frozenset[DeviceId]:
        """The workers that are taken for gone at present. Any thread may ask."""
        return self._epoch.rounds.away

    @property
    def begun(self) -> int:
        """Rounds, since the session began. Any thread may ask."""
        return self._epoch.rounds.statistics.rounds

    @property
    def budget_fullness(self) -> float | None:
        """0 ... 1, of the emptiest budget of the step, of which nothing is spent until there are
        fills; None where nothing may be relaxed. Any thread may ask."""
        relaxing = self._relaxing
        if relaxing is not None:
            return min(1.0, relaxing.fullness)
        return 1.0 if self._wants_relaxing else None

    def recovered_by_device(self) -> Mapping[int, int]:
        """Chunks of partials that came because they had been asked for. Any thread may ask."""
        by_device: Counter[int] = Counter()
        for (device, _), chunks in dict(self._epoch.rounds.recovered).items():
            by_device[device] += chunks
        return by_device

    def happened(self) -> Happened:
        """Where chunks did not come by themselves. Between steps, or a little out of date."""
        counts, rounds = self._counts, self._epoch.rounds
        return Happened(dict(rounds.recovered), dict(counts.filled.at), dict(counts.taken_over_at))

    @property
    def own_times(self) -> DecodeTimes:
        """Of the root's own shard, lately. Any thread may ask."""
        return self._epoch.own_clock.times

    @property
    def between(self) -> RootClock:
        """What the root does beside rounds. Any thread may ask."""
        return self._clock

    def spent(self) -> Spent:
        """What the rounds needed so far beyond what came by itself."""
        counted, counts = self._epoch.rounds.statistics, self._counts
        filled = counts.filled
        return Spent(
            rounds=counted.rounds,
            chunks_recovered=counted.chunks_recovered,
            chunks_filled=filled.chunks,
            chunks_taken_over=sum(counts.taken_over.values()),
            nats=filled.nats,
            strict_rounds=self._strict_rounds,
            filled_by_device=dict(filled.by_device),
            filled_by_layer=dict(filled.by_layer),
            nats_by_layer=dict(filled.nats_by_layer),
            taken_over_by_device=dict(counts.taken_over),
            away=dict(counts.away),
        )

    def link_reports(self) -> dict[DeviceId, LinkReport]:
        """How the links to the workers are at present."""
        epoch = self._epoch
        return {device: epoch.rounds.link(device) for device in epoch.workers}

    def _check_relaxable(self) -> None:
        if not self._may_relax:
            raise HaloError(
                "going on without chunks takes a profile, which says what that would cost; make "
                "one with `halo calibrate`, or be strict"
            )

    def _switch(self) -> None:
        following, self._next = self._next, None
        assert following is not None
        previous, self._epoch = self._epoch, following.epoch
        self._paused_for = None
        self._begin(following.relaxing if following.options is self._options else None)
        self._epoch.rounds.follow(previous.rounds)

    @property
    def _wants_relaxing(self) -> bool:
        return self._options.relaxes or self._on_request

    @property
    def _newest(self) -> Epoch:
        following = self._next
        return self._epoch if following is None else following.epoch

    def _made_relaxing(self, epoch: Epoch, options: RelaxOptions) -> Relaxing | None:
        if epoch.relaxable is None or not (options.relaxes or self._on_request):
            return None
        return epoch.relaxable.relaxing(options, self._budget, self._counts.filled)

    def _begin(self, made: Relaxing | None = None) -> None:
        """With this epoch, under these options, for which `made` was made."""
        epoch, options = self._epoch, self._options
        stands_in = options.take_over and options.recovery
        epoch.rounds.retune(
            max_copies=options.max_copies, away_after_s=AWAY_AFTER_S if stands_in else math.inf
        )
        self._relaxing = made or self._made_relaxing(epoch, options)
        self._ladder = Ladder(
            epoch.rounds,
            self._link,
            epoch.workers,
            epoch.stand_in if stands_in else None,
            self._relaxing,
            # Until there is another epoch: started again, it has nothing to answer with.
            lambda: self._paused_for or self._lost(),
            self._tracer,
            self._counts,
        )

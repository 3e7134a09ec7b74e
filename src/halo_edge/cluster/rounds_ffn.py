"""The FFN from the rounds of a cluster: scatter x, compute the own shard, gather the partials, add
them.

The root's side of the picture in DESIGN.md. What is lost on the way and asked for again is `sync`'s
business; this file moves bytes and adds vectors.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Final

from halo_edge.cluster.links import RootLink
from halo_edge.compute.ffn import FfnGraphs
from halo_edge.compute.partials import PartialSum
from halo_edge.compute.rows import Rows
from halo_edge.compute.wire import RowEncoder
from halo_edge.engine.trace import Activity, Tracer
from halo_edge.errors import HaloError
from halo_edge.sync.errors import DeviceStalled
from halo_edge.sync.ids import DeviceId, RoundId
from halo_edge.sync.root import RootRounds

# How often a waiting root looks whether a worker has left.
MEMBERSHIP_WAIT_S: Final = 0.05

_ENCODE_X: Final = Activity.ENCODE_X
_SEND_X: Final = Activity.SEND_X
_OWN_FFN: Final = Activity.OWN_FFN
_RECEIVE_PARTIALS: Final = Activity.RECEIVE_PARTIALS
_WAIT: Final = Activity.WAIT
_ADD_PARTIALS: Final = Activity.ADD_PARTIALS


class RoundsFfn:
    """A `Gather` (engine room) over a cluster.

    `x` encodes the step's x; `own` computes the root's shard into `ffn`, and `partials` adds what
    the workers sent. `workers` names the devices for messages; `lost` gives a worker that has left
    the cluster, or None. `tracer` is told where the rounds' time goes.
    """

    def __init__(
        self,
        rounds: RootRounds,
        link: RootLink,
        x: RowEncoder,
        own: FfnGraphs,
        ffn: Rows,
        partials: PartialSum,
        workers: Mapping[DeviceId, str],
        lost: Callable[[], str | None],
        tracer: Tracer,
    ) -> None:
        self._rounds = rounds
        self._link = link
        self._own = own
        self._ffn = ffn
        self._workers = workers
        self._lost = lost
        self._tracer = tracer
        self._step = -1
        self._x = x
        self._partials = partials

    def ffn(self, layer: int, tokens: int) -> None:
        """See `Gather.ffn`. Raises `HaloError` when a worker stalls or has left."""
        tracer, counted = self._tracer, self._rounds.statistics
        if layer == 0:
            self._step += 1
        tracer.begin_round()
        x = self._x.encode(tokens)
        tracer.lap(_ENCODE_X)
        now = time.monotonic()
        self._rounds.begin(RoundId(self._step, layer), tokens, x, now)
        self._send(now)
        tracer.lap(_SEND_X)
        if not self._own.run(layer, tokens):
            self._ffn.clear(tokens)
        tracer.lap(_OWN_FFN)
        self._collect()
        tracer.lap(_RECEIVE_PARTIALS)
        self._partials.add(tokens)
        tracer.lap(_ADD_PARTIALS)
        tracer.end_round(
            counted.wants_sent, counted.retransmissions, counted.bytes_sent + counted.bytes_received
        )

    def _send(self, now: float) -> None:
        for destinations, datagram in self._rounds.datagrams(now):
            self._link.send(destinations, datagram)

    def _collect(self) -> None:
        """Receive until the round is complete, sending what the rounds want sent."""
        rounds, link, tracer = self._rounds, self._link, self._tracer
        try:
            while True:
                now = time.monotonic()
                while (datagram := link.receive()) is not None:
                    rounds.receive(datagram, now)
                    if rounds.complete:  # the next round ignores whatever else there is
                        return
                self._send(now)
                if (worker := self._lost()) is not None:
                    raise HaloError(
                        f"worker {worker} left in the middle of a generation; "
                        f"start it again, or go on without it"
                    )
                deadline = rounds.deadline()
                wait_s = MEMBERSHIP_WAIT_S
                if deadline is not None:
                    wait_s = min(wait_s, deadline - time.monotonic())
                if wait_s > 0:
                    tracer.lap(_RECEIVE_PARTIALS)
                    link.wait(wait_s)
                    tracer.lap(_WAIT)
        except DeviceStalled as stalled:
            raise HaloError(
                f"worker {self._workers[stalled.device]} has not answered for "
                f"{stalled.silent_s:.0f} s; see whether it runs and can be reached"
            ) from None

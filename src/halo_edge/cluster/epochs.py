"""Makes a session's epochs ready: has the workers load their parts, and gets ready for its own.

Any thread may do so while the epoch before computes tokens.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import zenoh

from halo_edge.cluster.ahead import repack_ffn
from halo_edge.cluster.assigning import Assigned, Terms, assign, leave_out
from halo_edge.cluster.duty_cycle import EAGER, FREE, DutyCycle
from halo_edge.cluster.epoch import Epoch
from halo_edge.cluster.fill_fetch import fetch_fills
from halo_edge.cluster.holdings import Holdings, Packing
from halo_edge.cluster.messages import FillTask, Transport, WorkerInfo
from halo_edge.cluster.readying import Readying
from halo_edge.cluster.relaxing import Relaxable
from halo_edge.cluster.root_memory import RootMemory
from halo_edge.cluster.speed import DecodeClock
from halo_edge.cluster.stand_in import Desk, StandIn
from halo_edge.compute.activations import Activations, StepInputs
from halo_edge.compute.ffn import FfnGraphs
from halo_edge.compute.partials import PartialSum
from halo_edge.compute.rows import Rows
from halo_edge.compute.runtime import Runtime
from halo_edge.compute.wire import RowEncoder, WireCodec
from halo_edge.groups.profile import Floats
from halo_edge.groups.sketch import Sketch
from halo_edge.plan.plan import Plan
from halo_edge.sync.ids import ROOT, DeviceId
from halo_edge.sync.root import RootRounds
from halo_edge.sync.statistics import Statistics
from halo_edge.sync.timing import Recovery


class Epochs:
    """Of one session. `x` encodes each step's x, `inputs` says whose its tokens are."""

    def __init__(
        self,
        control_session: zenoh.Session,
        terms: Terms,
        packing: Packing,
        runtime: Runtime,
        activations: Activations,
        inputs: StepInputs,
        x: RowEncoder,
        stall_timeout_s: float,
        memory: RootMemory,
        tell: Callable[[str], None] = lambda _: None,
    ) -> None:
        """`tell` is given a line for the user."""
        self.statistics = Statistics()
        self.late: Counter[DeviceId] = Counter()
        """`RootRounds.late`. Both of all epochs."""
        self._control = control_session
        self._terms = terms
        self._packing = packing
        self._runtime = runtime
        self._inputs = inputs
        self._x = Rows.f32(activations.x)
        self._ffn = Rows.f32(activations.ffn)
        self._stall_timeout_s = stall_timeout_s
        self._memory = memory
        self._tell = tell
        self._partial_codec = WireCodec(terms.wire.partial, terms.width)
        self._desk = Desk(
            packing.store,
            packing.n_layers,
            runtime,
            x,
            WireCodec(terms.wire.x, terms.width),
            self._partial_codec,
            activations.max_tokens,
            memory,
        )
        self._sketch: Sketch | None = None
        if packing.profile is not None:
            self._sketch = Sketch(packing.profile, len(activations.x), activations.x)
        self._number = 0
        self._duty = DutyCycle(share=EAGER, free=FREE)
        self._readying: Readying | None = None
        self._holdings: Holdings | None = None
        self._last_own: tuple[range, FfnGraphs] | None = None
        self._ahead: ThreadPoolExecutor | None = None

    def close(self) -> None:
        """End what goes on beside rounds."""
        self._end_readying()
        if self._ahead is not None:
            self._ahead.shutdown(cancel_futures=True)

    def sketches(self) -> Floats | None:
        """A copy of the sketch of every layer for the last step's first token, f32[L, K]; None
        without a profile. Between steps."""
        return None if self._sketch is None else self._sketch.first()

    def make(self, plan: Plan, workers: Mapping[DeviceId, WorkerInfo]) -> Epoch:
        """The next epoch. `workers`: those that take part; the others' shares have to be empty.

        Raises `HaloError` for a worker that refuses, or leaves meanwhile.
        """
        holdings = Holdings(self._packing, plan, self._holdings)
        tasks = {device: holdings.fill_task(device) for device in workers}
        fills = {device: task for device, task in tasks.items() if task is not None}
        epoch = self._assigned(holdings, workers, fills)
        return replace(epoch, relaxable=self._relaxable(plan, holdings, epoch.workers))

    def make_strict(self, plan: Plan, workers: Mapping[DeviceId, WorkerInfo]) -> Epoch:
        """As `make`, but what is missing in it is always waited for: it takes no fills, which are
        what takes longest to make where everybody has all weights already."""
        return self._assigned(Holdings(self._packing, plan, self._holdings), workers, {})

    def leave_out(self, workers: Iterable[WorkerInfo]) -> None:
        """Tell them that they have no part in the epoch made last, which is used from now on."""
        leave_out(self._control, self._terms, self._number - 1, workers)

    @property
    def relaxable(self) -> bool:
        """Whether epochs may be."""
        return self._packing.profile is not None

    def alone(self, plan: Plan) -> Epoch:
        """One in which the root has everything: ready at once. Where there is room, weights are
        repacked while the first step, which goes through them in order, computes; else they stay in
        place in the model's file, where it takes a prompt half as long again."""
        holdings = Holdings(self._packing, plan)
        weights = [tile for tiles in holdings.own() for tile in tiles]
        matrices = (m for tile in weights for m in (tile.gate, tile.up, tile.down))
        if self._memory.has_room(sum(matrix.data.nbytes for matrix in matrices)):
            runtime = self._runtime.for_other_weights()
            self._ahead = ThreadPoolExecutor(1)
            repack_ffn(self._ahead, runtime.weights, weights)
            own = self._graphs(holdings, runtime)
            self._last_own = holdings.neurons[ROOT], own
        else:
            own = self._own(holdings, self._runtime.in_place())
        epoch = self._epoch(holdings, {}, own, Assigned([]))
        return replace(epoch, relaxable=self._relaxable(plan, holdings, {}))

    def _assigned(
        self,
        holdings: Holdings,
        workers: Mapping[DeviceId, WorkerInfo],
        fills: Mapping[DeviceId, FillTask],
    ) -> Epoch:
        number = self._number
        self._duty.begin()
        assigned = assign(self._control, self._terms, number, workers, holdings, fills, self._rest)
        neurons = holdings.neurons[ROOT]
        if self._last_own is None or self._last_own[0] != neurons:
            # Its repacked weights go when it goes.
            own = self._own(holdings, self._runtime.for_other_weights())
            self._last_own = neurons, own
        epoch = self._epoch(holdings, workers, self._last_own[1], assigned)
        self._holdings = holdings
        return epoch

    def _epoch(
        self,
        holdings: Holdings,
        workers: Mapping[DeviceId, WorkerInfo],
        own: FfnGraphs,
        assigned: Assigned,
    ) -> Epoch:
        """Strict, of the next number. `own`: the root's own shard."""
        terms, number = self._terms, self._number
        self._number += 1
        rounds = RootRounds(
            terms.key,
            terms.layout,
            list(workers),
            epoch=number,
            recovery=Recovery(reliable=terms.transport is Transport.TCP),
            stall_timeout_s=self._stall_timeout_s,
            statistics=self.statistics,
            late=self.late,
        )
        names = {device: worker.worker for device, worker in workers.items()}
        partials = [self._partial_codec.rows(rounds.partial_memory(device)) for device in names]
        self._end_readying()
        stand_in = self._stand_in(holdings)
        if number:  # beside the loading of the workers, and rounds of the epoch before
            self._get_ready(stand_in)
            assigned.wait()
        else:  # the first token comes first
            assigned.wait()
            self._get_ready(stand_in)
        return Epoch(
            rounds,
            names,
            own,
            DecodeClock(len(holdings.neurons[ROOT])),
            PartialSum(self._runtime, partials, self._ffn),
            stand_in,
            None,
        )

    def _get_ready(self, stand_in: StandIn) -> None:
        self._readying = Readying(stand_in.get_ready())

    def _end_readying(self) -> None:
        if self._readying is not None:
            self._readying.stop()

    def _own(self, holdings: Holdings, runtime: Runtime) -> FfnGraphs:
        own = self._graphs(holdings, runtime)
        self._duty.begin()
        for layer in range(self._packing.n_layers):
            own.prepare_layer(layer)
            self._rest()
        return own

    def _rest(self) -> None:
        """For rounds of the epoch before, if there is one."""
        if self._number:
            self._duty.rest()

    def _graphs(self, holdings: Holdings, runtime: Runtime) -> FfnGraphs:
        projections = self._sketch.projections if self._sketch is not None else None
        return FfnGraphs(runtime, holdings.own(), self._x, self._ffn, projections)

    def _stand_in(self, holdings: Holdings) -> StandIn:
        workers = {device: pieces for device, pieces in holdings.pieces.items() if device != ROOT}
        return StandIn(workers, self._desk)

    def _relaxable(
        self, plan: Plan, holdings: Holdings, names: Mapping[DeviceId, str]
    ) -> Relaxable | None:
        """None without a profile."""
        profile, terms = self._packing.profile, self._terms
        if profile is None or self._sketch is None:
            return None
        shape = (self._packing.n_layers, terms.width, profile.rank + 1)
        holding = {device: name for device, name in names.items() if holdings.neurons[device]}
        weights = fetch_fills(self._control, terms.cluster, terms.session, holding, shape)
        without = frozenset(holding) - frozenset(weights)
        if without:
            self._tell(
                f"what is lost of {', '.join(sorted(holding[device] for device in without))} is "
                f"always waited for: what would take its place does not come over that link"
            )
        return Relaxable(
            profile, plan.shares, weights, without, self._sketch, self._inputs, self._partial_codec
        )

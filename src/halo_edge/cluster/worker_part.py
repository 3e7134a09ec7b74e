"""A worker's part in an epoch: its shards, its graphs, its side of the rounds.

Made ready in any thread, then used by the one that serves.
"""

from __future__ import annotations

import time

from halo_edge.cluster.fill_compute import HeldFill
from halo_edge.cluster.messages import Assignment, Transport
from halo_edge.cluster.round_layout import round_layout
from halo_edge.cluster.shard_cache import ShardCache
from halo_edge.cluster.speed import DecodeSpeed
from halo_edge.cluster.worker_shards import Fetch, load_fill, load_shards
from halo_edge.compute.ffn import FfnGraphs, FfnWeights
from halo_edge.compute.runtime import Runtime
from halo_edge.compute.wire import WireCodec
from halo_edge.sync.ids import DeviceId
from halo_edge.sync.timing import Recovery
from halo_edge.sync.worker import WorkerRounds


class WorkerPart:
    """`rounds` is the owner's to feed; `compute` answers them. `fill` is the root's to fetch."""

    def __init__(
        self,
        assignment: Assignment,
        weights: list[FfnWeights | None],
        runtime: Runtime,
        fill: HeldFill,
    ) -> None:
        x_codec = WireCodec(assignment.x_wire, assignment.width)
        partial_codec = WireCodec(assignment.partial_wire, assignment.width)
        layout = round_layout(
            x_codec,
            partial_codec,
            n_layers=len(assignment.shards),
            max_tokens=assignment.max_tokens,
            max_payload=assignment.max_payload,
            window=assignment.window,
        )
        self.epoch = assignment.epoch
        neurons = next((part.gate.rows for part in weights if part is not None), 0)
        self.speed = DecodeSpeed(neurons)
        self.fill = fill
        self.rounds = WorkerRounds(
            assignment.key,
            layout,
            DeviceId(assignment.device),
            epoch=assignment.epoch,
            recovery=Recovery(reliable=assignment.transport is Transport.TCP),
        )
        self._partial_row_bytes = partial_codec.row_bytes
        self._partial = memoryview(bytearray(layout.max_tokens * partial_codec.row_bytes))
        self._partial_rows = partial_codec.rows(self._partial)
        x = x_codec.rows(self.rounds.x_memory)
        self._graphs = FfnGraphs(runtime, weights, x, self._partial_rows)
        self._graphs.prepare()

    def compute(self, layer: int, tokens: int) -> memoryview:
        """The encoded partial of the round whose x has come."""
        begun_s = time.monotonic()
        if not self._graphs.run(layer, tokens):
            self._partial_rows.clear(tokens)
        if tokens == 1:
            self.speed.sample(time.monotonic() - begun_s)
        return self._partial[: tokens * self._partial_row_bytes]


def load_part(assignment: Assignment, cache: ShardCache, fetch: Fetch, threads: int) -> WorkerPart:
    """Raises `HaloError` or `ValueError` for what cannot be had, or makes no sense."""
    runtime = Runtime(threads)
    weights = load_shards(assignment, cache, fetch)
    fill = load_fill(assignment, weights, runtime, cache, fetch)
    return WorkerPart(assignment, weights, runtime, fill)

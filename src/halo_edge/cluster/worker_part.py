"""A worker's part in an epoch: its shards, its graphs, its side of the rounds.

Made ready in any thread, then used by the one that serves.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from halo_edge.cluster.fill_compute import HeldFill
from halo_edge.cluster.held_tiles import HeldTiles
from halo_edge.cluster.messages import Assignment, Transport
from halo_edge.cluster.replica_loader import lower_priority
from halo_edge.cluster.round_layout import round_layout
from halo_edge.cluster.shard_cache import ShardCache
from halo_edge.cluster.speed import DecodeClock
from halo_edge.cluster.tile_source import TileSource
from halo_edge.cluster.worker_shards import (
    LoadedShards,
    load_fill,
    load_shards,
    names,
    pool_bytes,
)
from halo_edge.compute.ffn import FfnGraphs
from halo_edge.compute.runtime import Runtime
from halo_edge.compute.streamed_ffn import StreamedFfn
from halo_edge.compute.wire import WireCodec
from halo_edge.sync.ids import DeviceId
from halo_edge.sync.timing import Recovery
from halo_edge.sync.worker import WorkerRounds


class WorkerPart:
    """`rounds` is the owner's to feed; `compute` answers them. `fill` is the root's to fetch."""

    def __init__(
        self,
        assignment: Assignment,
        shards: LoadedShards,
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
        self.tiles = names(assignment.shards)
        """That it has in memory."""
        self.replicas = names(assignment.replicas)
        """That are to be in memory too."""
        self.on_disk = self.tiles | self.replicas | names(assignment.streamed)
        layers = range(len(shards.resident))
        neurons = max(sum(tile.gate.rows for tile in shards.whole(layer)) for layer in layers)
        self.clock = DecodeClock(neurons)
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
        self.pool_bytes = pool_bytes([[t.layout.nbytes for t in tiles] for tiles in shards.files])
        """For what is read ahead."""
        self._graphs: FfnGraphs | StreamedFfn | None
        if self.pool_bytes:
            self._graphs = StreamedFfn(
                runtime, shards.resident, shards.files, self.pool_bytes, x, self._partial_rows
            )
        else:
            self._graphs = FfnGraphs(runtime, shards.resident, x, self._partial_rows)
        self._graphs.prepare()

    def compute(self, layer: int, tokens: int) -> memoryview:
        """The encoded partial of the round whose x has come."""
        assert self._graphs is not None
        self.clock.begin()
        if not self._graphs.run(layer, tokens):
            self._partial_rows.clear(tokens)
        if tokens == 1:
            self.clock.end()
        else:
            self.clock.skip()
        return self._partial[: tokens * self._partial_row_bytes]

    @property
    def closed(self) -> bool:
        """Whether it can compute no more."""
        return self._graphs is None

    def close(self) -> None:
        """End what runs beside, and let the weights go. `compute` must not be called again."""
        if isinstance(self._graphs, StreamedFfn):
            self._graphs.close()
        self._graphs = None


def load_part(
    assignment: Assignment, held: HeldTiles, source: TileSource, cache: ShardCache
) -> WorkerPart:
    """Raises `HaloError` or `ValueError` for what cannot be had, or makes no sense."""
    shards = load_shards(assignment, held, source, cache)
    fill = HeldFill(None)
    if assignment.fill is not None:  # with threads of its own, of which none is as urgent as rounds
        with ThreadPoolExecutor(1, initializer=lower_priority) as beside:
            fill = beside.submit(
                lambda: load_fill(assignment, shards, Runtime(held.runtime.threads), source)
            ).result()
    return WorkerPart(assignment, shards, held.runtime, fill)

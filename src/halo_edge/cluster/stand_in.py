"""Computes at the root what a worker does not answer.

Where there is memory for it the worker's shard is got ready beforehand, repacked as the worker has
it (`spare_shards`). What is not ready is computed where it lies, and costs no memory but the
kernel's page cache, which it may take back: in the model's file, if that is in memory and has these
neurons one after another; else in the packed shards on the root's disk.

The graph is the worker's, from the x that was sent to the partial that would have come: with the
same kernels to the last bit. What lies in place is not repacked; kernels of repacked weights may
add in another order, and then the two differ as two kinds of CPU do.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

import numpy as np

from halo_edge.cluster.readying import Readying
from halo_edge.cluster.root_memory import RootMemory
from halo_edge.cluster.shard_store import ShardStore
from halo_edge.cluster.spare_shards import SpareShards
from halo_edge.compute.ffn import FfnGraphs, LayerWeights, WeightsByLayer
from halo_edge.compute.mapped import resident_share, want_mapped_pages
from halo_edge.compute.runtime import Runtime
from halo_edge.compute.wire import RowEncoder, WireCodec
from halo_edge.sync.ids import DeviceId

# What is assumed until it has been measured: a memory card, the memory of a small computer, and
# the multiplications that one of its cores does when many tokens share the weights.
DISK_BYTES_PER_S: Final = 30e6
MEMORY_BYTES_PER_S: Final = 3e9
MULTIPLICATIONS_PER_S: Final = 5e9
# So many, and a few more, are looked at for that.
GUESSED_LAYERS: Final = 4
# So much of the model's file has to be, for who reads it where it lies: else it would read rows of
# `down` of which it needs a part.
IN_MEMORY: Final = 0.95
# The weight of a new measurement: the first is of pages that had to be read and graphs that had to
# be built, and must not count for long.
_NEWEST: Final = 0.25


class Desk:
    """What the stand-ins of a session's epochs have in common: `x`, where each round's is encoded,
    where the partial goes, what is ready, and what is known of reading."""

    def __init__(
        self,
        store: ShardStore,
        n_layers: int,
        runtime: Runtime,
        x: RowEncoder,
        x_codec: WireCodec,
        partial_codec: WireCodec,
        max_tokens: int,
        memory: RootMemory,
    ) -> None:
        self.memory = memory
        self.store = store
        self.n_layers = n_layers
        self.runtime = runtime
        self.row_bytes = partial_codec.row_bytes
        self.width = partial_codec.width
        self.partial = memoryview(bytearray(max_tokens * self.row_bytes))
        self.x = x_codec.rows(x.memory)
        self.out = partial_codec.rows(self.partial)
        self.spare = SpareShards(store, n_layers, runtime, self.x, self.out)
        self.reading_s: dict[range, float] = {}
        """Of pieces, in a layer each: what was found out before."""


class StandIn:
    """`pieces`: of neurons, what each worker holds of every layer. `desk`: see `Desk`.

    Runs in the root's thread, between its own graphs, but for `get_ready`.
    """

    def __init__(
        self,
        pieces: Mapping[DeviceId, Sequence[range]],
        desk: Desk,
    ) -> None:
        self._store = desk.store
        self._pieces = {device: tuple(each) for device, each in pieces.items()}
        self._desk = desk
        self._n_layers = desk.n_layers
        held = {device: each for device, each in self._pieces.items() if any(each)}
        self._spare = dict(zip(held, desk.spare.of(list(held.values())), strict=True))
        self._mapped: dict[DeviceId, FfnGraphs] = {}
        self._begun: set[DeviceId] = set()  # those that are got ready
        self._measured_s: dict[tuple[DeviceId, int], float] = {}
        self._in_model = {device: self._from_model(each) for device, each in held.items()}
        # Beforehand: looking at all the tiles takes longer than a round may.
        self._guess_s = {device: self._guess(device) for device in pieces}

    def compute(self, device: DeviceId, layer: int, tokens: int) -> memoryview:
        """The partial of `device` for the x encoded last: u8[tokens * partial_row_bytes], valid
        until the next call."""
        begun_s = time.monotonic()
        spare = self._spare.get(device)
        if spare is not None and layer in spare.layers:
            graphs = spare.graphs
        else:
            graphs = self._mapped.get(device) or self._in_place(device)
        if not graphs.run(layer, tokens):
            self._desk.out.clear(tokens)
        self._measure(device, tokens, time.monotonic() - begun_s)
        return self._desk.partial[: tokens * self._desk.row_bytes]

    def get_ready(self) -> Iterator[None]:
        """Step by step what the first `compute` for one token would have to do, and repack. Another
        thread may, meanwhile. Devices are left out for whose shards there is no room
        (`RootMemory`)."""
        for device, spare in self._spare.items():
            pieces = self._pieces[device]
            if self._fits(device):
                self._begun.add(device)
                yield from self._desk.spare.get_ready(pieces, spare)

    def _in_place(self, device: DeviceId) -> FfnGraphs:
        desk = self._desk
        weights: WeightsByLayer = self._in_model.get(device, ())
        if not weights:
            weights = _Shards(self._store, self._pieces[device], self._n_layers)
        graphs = FfnGraphs(desk.runtime.in_place(), weights, desk.x, desk.out)
        self._mapped[device] = graphs
        return graphs

    def _fits(self, device: DeviceId) -> bool:
        tiles = [tile for piece in self._pieces[device] for tile in self._store.mapped(0, piece)]
        left = self._n_layers - len(self._spare[device].layers)
        return self._desk.memory.has_room(left * sum(tile.nbytes for tile in tiles))

    def cost_s(self, device: DeviceId, tokens: int) -> float:
        """How long `compute` is likely to take: as lately, for about so many tokens, or else from
        the bytes to be read and the numbers to be multiplied."""
        measured_s = self._measured_s.get((device, tokens.bit_length()))
        if measured_s is not None:
            return measured_s
        reading_s, token_s = self._guess_s[device]
        return reading_s + tokens * token_s

    def prefetch(self, device: DeviceId) -> None:
        """Have the kernel read the device's shards in the background, unless somebody reads them to
        get them ready, or nobody has to. To ask for all takes longer than a round may, so that is
        done beside the rounds, too."""
        if device not in self._begun and not self._in_model.get(device):
            Readying(self._want(device))

    def _want(self, device: DeviceId) -> Iterator[None]:
        for layer in range(self._n_layers):
            for piece in self._pieces[device]:
                for tile in self._store.mapped(layer, piece):
                    want_mapped_pages(tile)
                yield

    def _measure(self, device: DeviceId, tokens: int, took_s: float) -> None:
        key = (device, tokens.bit_length())
        before_s = self._measured_s.get(key, took_s)
        self._measured_s[key] = before_s + _NEWEST * (took_s - before_s)

    def _from_model(self, pieces: Sequence[range]) -> Sequence[LayerWeights]:
        """Of every layer; of none, where they are not one part of the file, or it is to be read."""
        neurons = range(pieces[0].start, pieces[-1].stop)
        if len(neurons) != sum(map(len, pieces)):
            return ()
        layers = [self._store.in_model(layer, neurons) for layer in range(self._n_layers)]
        found = [weights for weights in layers if weights is not None]
        looked_at = found[:: max(1, self._n_layers // GUESSED_LAYERS)]
        stored = [matrix.data for w in looked_at for matrix in (w.gate, w.up, w.down)]
        if len(found) < len(layers) or min(map(resident_share, stored)) < IN_MEMORY:
            return ()
        return [(weights,) for weights in found]

    def _guess(self, device: DeviceId) -> tuple[float, float]:
        """Seconds for reading a layer's shard, and for each token."""
        reading_s = self._desk.reading_s
        products = self._products(sum(map(len, self._pieces[device])))
        token_s = products / (MULTIPLICATIONS_PER_S * self._desk.runtime.threads)
        if self._in_model.get(device):
            return products / MEMORY_BYTES_PER_S, token_s
        for piece in self._pieces[device]:
            if piece not in reading_s:
                reading_s[piece] = self._guess_reading_s(piece)
        return sum(reading_s[piece] for piece in self._pieces[device]), token_s

    def _guess_reading_s(self, piece: range) -> float:
        """Of a layer's."""
        layers = range(0, self._n_layers, max(1, self._n_layers // GUESSED_LAYERS))
        on_disk = [tile for layer in layers for tile in self._store.mapped(layer, piece)]
        nbytes, resident = self._products(len(piece)), 1.0  # if we know no better
        if on_disk:
            nbytes = sum(tile.nbytes for tile in on_disk) / len(layers)
            resident = float(np.mean([resident_share(tile) for tile in on_disk]))
        return nbytes * ((1 - resident) / DISK_BYTES_PER_S + resident / MEMORY_BYTES_PER_S)

    def _products(self, neurons: int) -> float:
        """Of one token, in a layer."""
        return 3.0 * neurons * self._desk.width


class _Shards:
    """A device's `WeightsByLayer`, each mapped when it is asked for, and then kept: every mapping
    of a file has a descriptor."""

    def __init__(self, store: ShardStore, pieces: Sequence[range], n_layers: int) -> None:
        self._store = store
        self._pieces = pieces
        self._n_layers = n_layers
        self._mapped: dict[int, LayerWeights] = {}

    def __len__(self) -> int:
        return self._n_layers

    def __getitem__(self, layer: int, /) -> LayerWeights:
        if layer not in self._mapped:
            weights = self._store.weights
            self._mapped[layer] = [tile for piece in self._pieces for tile in weights(layer, piece)]
        return self._mapped[layer]

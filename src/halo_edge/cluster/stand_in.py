"""Computes at the root what a worker does not answer, from the packed shards on the root's disk.

The shards are mapped and not repacked: until they are needed they cost no memory, and then only
the kernel's page cache, which it may take back. The graph is the worker's, from the x that was
sent to the partial that would have come: with the same kernels to the last bit. Workers multiply
repacked weights where they can, whose kernels may add in another order; then the two differ as two
kinds of CPU do.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

import numpy as np

from halo_edge.cluster.limits import has_room
from halo_edge.cluster.shard_store import ShardStore
from halo_edge.compute.ffn import FfnGraphs, LayerWeights
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
# The weight of a new measurement: the first is of pages that had to be read and graphs that had to
# be built, and must not count for long.
_NEWEST: Final = 0.25


class StandIn:
    """`pieces`: of neurons, what each worker holds of every layer. `x`: where each round's x is
    encoded.

    Runs in the root's thread, between its own graphs, but for `get_ready`.
    """

    def __init__(
        self,
        store: ShardStore,
        pieces: Mapping[DeviceId, Sequence[range]],
        n_layers: int,
        runtime: Runtime,
        x: RowEncoder,
        x_codec: WireCodec,
        partial_codec: WireCodec,
        max_tokens: int,
        reading_s: dict[range, float],
    ) -> None:
        """`reading_s`: what was found out of pieces before, of a layer each; it is added to."""
        self._store = store
        self._pieces = pieces
        self._n_layers = n_layers
        self._runtime = runtime
        self._x = x_codec.rows(x.memory)
        self._row_bytes = partial_codec.row_bytes
        self._width = partial_codec.width
        self._partial = memoryview(bytearray(max_tokens * self._row_bytes))
        self._out = partial_codec.rows(self._partial)
        self._graphs: dict[DeviceId, FfnGraphs] = {}
        self._measured_s: dict[tuple[DeviceId, int], float] = {}
        self._reading_s = reading_s
        # Beforehand: looking at all the tiles takes longer than a round may.
        self._guess_s = {device: self._guess(device) for device in pieces}

    def compute(self, device: DeviceId, layer: int, tokens: int) -> memoryview:
        """The partial of `device` for the x encoded last: u8[tokens * partial_row_bytes], valid
        until the next call."""
        begun_s = time.monotonic()
        graphs = self._graphs.get(device)
        if graphs is None:
            graphs = self._graphs[device] = self._made(device)
        if not graphs.run(layer, tokens):
            self._out.clear(tokens)
        self._measure(device, tokens, time.monotonic() - begun_s)
        return self._partial[: tokens * self._row_bytes]

    def get_ready(self) -> Iterator[None]:
        """Step by step what the first `compute` for one token would have to do: map tiles, check
        them, make graphs. Another thread may, meanwhile; and once only. Devices are left out whose
        tiles would take more than half of the memory that is left, and all where a control group
        limits it."""
        for device, pieces in self._pieces.items():
            if not any(pieces) or not self._fits(device):
                continue
            graphs = self._made(device)
            for layer in range(self._n_layers):
                graphs.prepare_layer(layer)
                yield
            self._graphs.setdefault(device, graphs)

    def _made(self, device: DeviceId) -> FfnGraphs:
        weights = _Shards(self._store, self._pieces[device], self._n_layers)
        return FfnGraphs(self._runtime.in_place(), weights, self._x, self._out)

    def _fits(self, device: DeviceId) -> bool:
        tiles = [tile for piece in self._pieces[device] for tile in self._store.mapped(0, piece)]
        return has_room(self._n_layers * sum(tile.nbytes for tile in tiles))

    def cost_s(self, device: DeviceId, tokens: int) -> float:
        """How long `compute` is likely to take: as lately, for about so many tokens, or else from
        the bytes to be read and the numbers to be multiplied."""
        measured_s = self._measured_s.get((device, tokens.bit_length()))
        if measured_s is not None:
            return measured_s
        reading_s, token_s = self._guess_s[device]
        return reading_s + tokens * token_s

    def prefetch(self, device: DeviceId) -> None:
        """Have the kernel read the device's shards in the background, unless they were got ready:
        then it has."""
        if device in self._graphs:
            return
        for layer in range(self._n_layers):
            for piece in self._pieces[device]:
                for tile in self._store.mapped(layer, piece):
                    want_mapped_pages(tile)

    def _measure(self, device: DeviceId, tokens: int, took_s: float) -> None:
        key = (device, tokens.bit_length())
        before_s = self._measured_s.get(key, took_s)
        self._measured_s[key] = before_s + _NEWEST * (took_s - before_s)

    def _guess(self, device: DeviceId) -> tuple[float, float]:
        """Seconds for reading a layer's shard, and for each token."""
        reading_s = self._reading_s
        for piece in self._pieces[device]:
            if piece not in reading_s:
                reading_s[piece] = self._guess_reading_s(piece)
        products = self._products(sum(map(len, self._pieces[device])))
        token_s = products / (MULTIPLICATIONS_PER_S * self._runtime.threads)
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
        return 3.0 * neurons * self._width


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

"""The FFN of a device whose memory is smaller than its share: part of it stays, part is streamed.

A layer's neurons are cut into tiles. Those that fit stay in memory; the others are read from disk
for every round (`tile_stream.py`), ahead of it as far as the buffers reach, and multiplied where
they were read to. Each layer's partial is added up in f32, always in the same order: what stays,
then tile by tile.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Final, Protocol

import ggml
import numpy as np
from numpy.typing import NDArray

from halo_edge.compute.context import GraphContext, aligned
from halo_edge.compute.ffn import MAX_GRAPH_SETS, FfnGraphs, FfnWeights, WeightsByLayer, ffn_of
from halo_edge.compute.rows import Rows
from halo_edge.compute.runtime import Arena, Graph, Runtime
from halo_edge.compute.tile_stream import Loading, TileFile, TileStream

DECODE: Final = 1


class TileLayout(Hashable, Protocol):
    """How the matrices of a tile lie in its bytes. Equal layouts share graphs."""

    @property
    def nbytes(self) -> int: ...

    def weights(self, packed: NDArray[np.uint8], /) -> FfnWeights:
        """The matrices inside u8[nbytes]; views."""
        ...


@dataclass(frozen=True)
class StreamedTile:
    """Some neurons of a layer in a file, checked when it was written."""

    path: Path
    layout: TileLayout


class StreamedFfn:
    """Stands where `FfnGraphs` does. Used by one thread, but for `loading`; ended by `close`."""

    def __init__(
        self,
        runtime: Runtime,
        resident: WeightsByLayer,
        streamed: Sequence[Sequence[StreamedTile]],
        pool_bytes: int,
        x: Rows,
        out: Rows,
    ) -> None:
        """Per layer: what stays, and the tiles to stream; there is at least one.
        `pool_bytes`: for tiles that were read ahead.

        Raises `HaloError` where the pool does not hold two tiles.
        """
        self._layers = [list(tiles) for tiles in streamed]
        self._first = [0, *accumulate(map(len, self._layers))]  # of each layer, among all
        tiles = [tile for layer in self._layers for tile in layer]
        total = Rows.f32(aligned((out.max_rows, out.width), np.float32))
        self._total = total
        self._resident = FfnGraphs(runtime, resident, x, total)
        self._stream = TileStream([TileFile(t.path, t.layout.nbytes) for t in tiles], pool_bytes)
        self._sums = _Sums(runtime.in_place(), self._stream.buffers, x, total, out)

    @property
    def loading(self) -> Loading:
        """So far. Any thread may ask."""
        return self._stream.loading

    def prepare(self) -> None:
        """Make ready for decode, so that the first round need not wait for repacking."""
        self._resident.prepare()
        self._sums.result(DECODE)
        for layout in {tile.layout for tiles in self._layers for tile in tiles}:
            for buffer in range(len(self._stream.buffers)):
                self._sums.tile(buffer, layout, DECODE)

    def run(self, layer: int, tokens: int) -> bool:
        """Compute `out` from `x`; False, with `out` untouched, if there is no neuron group here.

        Raises `HaloError` where weights cannot be read; `out` is then untouched, and any layer may
        be tried next.
        """
        tiles = self._layers[layer]
        if tiles:
            self._stream.seek(self._first[layer])  # before the rest, so that it overlaps
        if not self._resident.run(layer, tokens):
            if not tiles:
                return False
            self._total.clear(tokens)
        for tile in tiles:
            buffer = self._stream.wait()
            self._sums.tile(buffer, tile.layout, tokens)()
            self._stream.release()
        self._sums.result(tokens)()
        return True

    def close(self) -> None:
        """End reading. `run` must not be called again."""
        self._stream.close()


class _GraphSet:
    """The graphs for one number of tokens."""

    def __init__(self) -> None:
        self.tiles: dict[tuple[int, TileLayout], Graph] = {}
        self.arenas: dict[TileLayout, Arena] = {}
        self.result: Graph | None = None


class _Sums:
    """A layer's partial, added up: total += FFN(x) by one tile, and at the end out = total. For the
    token counts lately used."""

    def __init__(
        self,
        runtime: Runtime,
        buffers: Sequence[NDArray[np.uint8]],
        x: Rows,
        total: Rows,
        out: Rows,
    ) -> None:
        self._runtime = runtime
        self._buffers = buffers
        self._x, self._total, self._out = x, total, out
        self._sets: OrderedDict[int, _GraphSet] = OrderedDict()

    def tile(self, buffer: int, layout: TileLayout, tokens: int) -> Graph:
        """Adds the tile in that buffer to the first `tokens` rows of the total."""
        graphs = self._set(tokens)
        found = graphs.tiles.get((buffer, layout))
        if found is None:
            arena = graphs.arenas.setdefault(layout, Arena())
            found = self._build_tile(buffer, layout, tokens, arena)
            graphs.tiles[buffer, layout] = found
        return found

    def result(self, tokens: int) -> Graph:
        """Converts the first `tokens` rows of the total to those of `out`."""
        graphs = self._set(tokens)
        if graphs.result is None:
            c = GraphContext(nodes=8)
            self._out.copy(c, self._total.read(c, tokens), tokens)
            graphs.result = Graph(self._runtime, c, Arena())
        return graphs.result

    def _set(self, tokens: int) -> _GraphSet:
        found = self._sets.get(tokens)
        if found is None:
            found = self._sets[tokens] = _GraphSet()
            if len(self._sets) > MAX_GRAPH_SETS:
                self._sets.popitem(last=False)
        self._sets.move_to_end(tokens)
        return found

    def _build_tile(self, buffer: int, layout: TileLayout, tokens: int, arena: Arena) -> Graph:
        c = GraphContext(nodes=20)
        weights = layout.weights(self._buffers[buffer][: layout.nbytes])
        partial = ffn_of(c, self._runtime, [weights], self._x.read(c, tokens))
        total = self._total.read(c, tokens)
        self._total.write(c, ggml.ggml_add(c.ctx, total, partial), tokens)
        return Graph(self._runtime, c, arena)

"""The FFN of a layer, or a device's shard of it: down (silu(gate x) * (up x)).

Root and workers run the same graph; only the matrices (and whose buffers) differ.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol, TypeAlias

import ggml

from halo_edge.compute.context import GraphContext, Tensor
from halo_edge.compute.joined import Along, joined
from halo_edge.compute.rows import Rows
from halo_edge.compute.runtime import Arena, Graph, Runtime
from halo_edge.compute.weights import Matrix
from halo_edge.model.gguf_file import GgufFile

# Token counts for which graphs are kept: decode of a few users or many, prefill chunks beside it,
# whole ones, and a few remainders. A quarter of a MB each for 22 layers.
MAX_GRAPH_SETS: Final = 32
# Tensors of a graph, and of each tile: three matrices and their products, two concatenations, a
# view, a copy, a sum.
_NODES: Final = 12
_NODES_PER_TILE: Final = 11


@dataclass(frozen=True, eq=False)
class FfnWeights:
    """Of some neurons of a layer. `gate`, `up`: [neurons, H]; `down`: [H, neurons]."""

    gate: Matrix
    up: Matrix
    down: Matrix

    def __post_init__(self) -> None:
        neurons, width = self.gate.rows, self.gate.columns
        if (self.up.rows, self.up.columns) != (neurons, width) or (
            self.down.rows,
            self.down.columns,
        ) != (width, neurons):
            raise ValueError("gate, up and down do not fit together")

    @classmethod
    def from_gguf(cls, gguf: GgufFile, layer: int) -> FfnWeights:
        """All neurons of `layer`, mapped."""
        names = (f"blk.{layer}.ffn_{part}.weight" for part in ("gate", "up", "down"))
        return cls(*(Matrix.from_gguf(gguf, name) for name in names))


@dataclass(frozen=True, eq=False)
class Projection:
    """Something small to know of a layer's x, computed beside its FFN: `matrix` x, `matrix` being
    [K, H], goes to the rows of `out`, K values wide."""

    matrix: Matrix
    out: Rows


LayerWeights: TypeAlias = Sequence[FfnWeights]
"""A device's weights of a layer, in one or more tiles; none where it has no neurons."""


class WeightsByLayer(Protocol):
    """A list of `LayerWeights`, or what behaves like one."""

    def __len__(self) -> int: ...

    def __getitem__(self, layer: int, /) -> LayerWeights: ...


def build_ffn(
    runtime: Runtime,
    weights: LayerWeights,
    tokens: int,
    x: Rows,
    out: Rows,
    arena: Arena,
    projection: Projection | None = None,
) -> Graph:
    """Reads the first `tokens` rows of `x`, writes those of `out`; both H values wide. Without
    `weights` it computes the projection only. Raises ValueError for tiles that do not fit
    together."""
    c = GraphContext(nodes=_NODES + _NODES_PER_TILE * len(weights))
    inp = x.read(c, tokens)
    if projection is not None:
        product = runtime.weights.multiply(c, projection.matrix, inp)
        projection.out.write(c, product, tokens)
    if weights:
        out.write(c, ffn_of(c, runtime, weights, inp), tokens)
    return Graph(runtime, c, arena)


def ffn_of(context: GraphContext, runtime: Runtime, weights: LayerWeights, x: Tensor) -> Tensor:
    """The FFN of one or more tiles, for `x` of ne = [H, n]: ne = [H, n]. Raises ValueError for
    tiles that do not fit together."""
    if not runtime.weights.joins:
        total, *others = [_ffn_of_one(context, runtime, [tile], x) for tile in weights]
        for other in others:
            total = ggml.ggml_add(context.ctx, total, other)
        return total
    return _ffn_of_one(context, runtime, weights, x)


def _ffn_of_one(
    context: GraphContext, runtime: Runtime, weights: LayerWeights, x: Tensor
) -> Tensor:
    """Of tiles that are joined."""
    multiply = runtime.weights.multiply
    gate = multiply(context, joined([tile.gate for tile in weights], Along.ROWS), x)
    up = multiply(context, joined([tile.up for tile in weights], Along.ROWS), x)
    activation = ggml.ggml_swiglu_split(context.ctx, gate, up)
    return multiply(context, joined([tile.down for tile in weights], Along.COLUMNS), activation)


class _GraphSet:
    """The graphs for one number of tokens, by layer, and the arenas they share."""

    def __init__(self) -> None:
        self.graphs: dict[int, Graph | None] = {}
        # An arena serves graphs of one shape: by the neurons of each tile.
        self.arenas: dict[tuple[int, ...], Arena] = {}


class FfnGraphs:
    """The graphs of all layers' FFN (or shards of it) for the token counts lately used."""

    def __init__(
        self,
        runtime: Runtime,
        weights: WeightsByLayer,
        x: Rows,
        out: Rows,
        projections: Sequence[Projection] | None = None,
    ) -> None:
        """`weights` are looked up when a graph is built. `projections` per layer: computed by each
        `run`, too."""
        self._runtime = runtime
        self._weights = weights
        self._projections = projections
        self._without: set[int] = set()  # layers without a neuron group here
        self._x = x
        self._out = out
        self._sets: OrderedDict[int, _GraphSet] = OrderedDict()

    def prepare(self) -> None:
        """Make ready for decode, so that the first round need not wait for repacking."""
        for layer in range(len(self._weights)):
            self.prepare_layer(layer)

    def prepare_layer(self, layer: int) -> None:
        """The same for one layer."""
        self._graph(layer, tokens=1)

    def run(self, layer: int, tokens: int) -> bool:
        """Compute `out` from `x`; False, with `out` untouched, if there is no neuron group here."""
        graph = self._graph(layer, tokens)
        if graph is not None:
            graph()
        return layer not in self._without

    def _graph(self, layer: int, tokens: int) -> Graph | None:
        found = self._sets.get(tokens)
        if found is None:
            found = self._sets[tokens] = _GraphSet()
            if len(self._sets) > MAX_GRAPH_SETS:
                self._sets.popitem(last=False)
        self._sets.move_to_end(tokens)
        if layer not in found.graphs:
            found.graphs[layer] = self._build(layer, tokens, found)
        return found.graphs[layer]

    def _build(self, layer: int, tokens: int, graphs: _GraphSet) -> Graph | None:
        weights = self._weights[layer]
        projection = self._projections[layer] if self._projections is not None else None
        if not weights:
            self._without.add(layer)
            if projection is None:
                return None
        arena = graphs.arenas.setdefault(tuple(tile.gate.rows for tile in weights), Arena())
        return build_ffn(self._runtime, weights, tokens, self._x, self._out, arena, projection)

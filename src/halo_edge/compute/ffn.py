"""The FFN of a layer, or a device's shard of it: down (silu(gate x) * (up x)).

Root and workers run the same graph; only the matrices (and whose buffers) differ.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import ggml

from halo_edge.compute.context import GraphContext
from halo_edge.compute.rows import Rows
from halo_edge.compute.runtime import Arena, Graph, Runtime
from halo_edge.compute.weights import Matrix
from halo_edge.model.gguf_file import GgufFile

# Token counts for which graphs are kept: decode, whole prefill chunks, and a few remainders.
MAX_GRAPH_SETS: Final = 12


@dataclass(frozen=True, eq=False)
class FfnWeights:
    """`gate`, `up`: [neurons, H]; `down`: [H, neurons]."""

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


def build_ffn(
    runtime: Runtime,
    weights: FfnWeights,
    tokens: int,
    x: Rows,
    out: Rows,
    arena: Arena,
) -> Graph:
    """Reads the first `tokens` rows of `x`, writes those of `out`; both H values wide."""
    c, multiply = GraphContext(nodes=16), runtime.weights.multiply
    inp = x.read(c, tokens)
    gate = multiply(c, weights.gate, inp)
    up = multiply(c, weights.up, inp)
    activation = ggml.ggml_swiglu_split(c.ctx, gate, up)
    out.write(c, multiply(c, weights.down, activation), tokens)
    return Graph(runtime, c, arena)


class FfnGraphs:
    """The graphs of all layers' FFN (or shards of it) for the token counts lately used."""

    def __init__(
        self, runtime: Runtime, weights: Sequence[FfnWeights | None], x: Rows, out: Rows
    ) -> None:
        """`weights` per layer; None where this device holds no neuron group of the layer."""
        self._runtime = runtime
        self._weights = weights
        self._x = x
        self._out = out
        self._sets: OrderedDict[int, list[Graph | None]] = OrderedDict()

    def prepare(self) -> None:
        """Make ready for decode, so that the first round need not wait for repacking."""
        self._graphs(tokens=1)

    def run(self, layer: int, tokens: int) -> bool:
        """Compute `out` from `x`; False, with `out` untouched, if there is nothing to compute."""
        graph = self._graphs(tokens)[layer]
        if graph is None:
            return False
        graph()
        return True

    def _graphs(self, tokens: int) -> list[Graph | None]:
        graphs = self._sets.get(tokens)
        if graphs is None:
            graphs = self._sets[tokens] = self._build(tokens)
            if len(self._sets) > MAX_GRAPH_SETS:
                self._sets.popitem(last=False)
        self._sets.move_to_end(tokens)
        return graphs

    def _build(self, tokens: int) -> list[Graph | None]:
        arenas: dict[int, Arena] = {}  # by neurons, as an arena serves graphs of one shape
        graphs: list[Graph | None] = []
        for weights in self._weights:
            if weights is None:
                graphs.append(None)
                continue
            arena = arenas.setdefault(weights.gate.rows, Arena())
            graphs.append(build_ffn(self._runtime, weights, tokens, self._x, self._out, arena))
        return graphs

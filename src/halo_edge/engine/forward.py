"""One step through the model: what DESIGN.md draws under "How a token is made".

Knows graphs and the KV cache; not sampling, text, or who computes the FFN.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass
from typing import Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from halo_edge.compute.activations import Activations, StepInputs
from halo_edge.compute.attention import AttentionBuilder, AttentionGraph, KvHeadRange
from halo_edge.compute.context import aligned
from halo_edge.compute.head import build_embedding, build_head
from halo_edge.compute.kv_cache import KvCache
from halo_edge.compute.runtime import Arena, Graph, Runtime
from halo_edge.engine.gather import Gather
from halo_edge.engine.kv_cells import KvCells, SequenceId
from halo_edge.engine.trace import NO_LAYER, Activity, Tracer
from halo_edge.model.gguf_file import GgufFile
from halo_edge.model.hparams import HyperParameters

# Graph sets (all layers, for so many rows of each sequence) kept at a time: the numbers that decode
# together, and with a part of a prompt (`pace.ROW_COUNTS`). Half a MB each for 22 layers, and
# 50 KB for each sequence; to build one takes 20 to 40 ms on a PC.
MAX_GRAPH_SETS: Final = 32

_Key = TypeVar("_Key", int, tuple[int, ...])
_Built = TypeVar("_Built")

_PREPARE: Final = Activity.PREPARE
_EMBED: Final = Activity.EMBED
_ATTENTION: Final = Activity.ATTENTION
_HEAD: Final = Activity.HEAD


@dataclass(frozen=True)
class Rows:
    """Consecutive tokens of one sequence in a step. `outputs`: how many of the last need logits."""

    sequence: SequenceId
    tokens: SequenceOf[int]
    start: int  # position of the first
    outputs: int

    @property
    def positions(self) -> range:
        return range(self.start, self.start + len(self.tokens))


class _LayerGraphs:
    """The attention of all layers, for so many rows of each sequence."""

    def __init__(self, graphs: list[AttentionGraph]) -> None:
        self.graphs = graphs
        self._windows: list[range] = []

    def look(self, windows: list[range]) -> None:
        """From now on, each sequence at these cells."""
        if windows != self._windows:
            for graph in self.graphs:
                graph.look(windows)
            self._windows = windows


class Forward:
    """A model ready to compute steps of up to `max_tokens` tokens over a KV cache of `cells`
    cells. `tracer` is told where their time goes, also by who computes the FFN.
    """

    def __init__(
        self,
        gguf: GgufFile,
        params: HyperParameters,
        runtime: Runtime,
        *,
        cells: int,
        max_tokens: int,
        tracer: Tracer | None = None,
    ) -> None:
        self.tracer = tracer or Tracer()
        self.params = params
        self.max_tokens = max_tokens
        self.activations = Activations(max_tokens, params.hidden)
        heads = KvHeadRange(0, params.n_kv_heads)
        self._cache = KvCache(params.n_layers, cells, len(heads) * params.head_dim)
        self.cells = KvCells(self._cache.cells)
        self.inputs = StepInputs(max_tokens, self._cache.cells)
        self._attention = AttentionBuilder(
            runtime, gguf, params, heads, self._cache, self.activations, self.inputs
        )
        self._runtime = runtime
        self._gguf = gguf
        self._layers: OrderedDict[tuple[int, ...], _LayerGraphs] = OrderedDict()
        self._embeddings: OrderedDict[int, Graph] = OrderedDict()
        self._heads: OrderedDict[int, Graph] = OrderedDict()
        self._selected: NDArray[np.int32] = aligned((max_tokens,), np.int32)
        # Memory comes with use.
        self._logits: NDArray[np.float32] = aligned((max_tokens, params.vocab), np.float32)

    def copy(self, old: SequenceId, new: SequenceId, length: int) -> None:
        """Let `new` have computed what `old` has, up to position `length`. Raises `HaloError` when
        the KV cache is full."""
        self._cache.copy(*self.cells.copy(old, new, length))

    def step(self, batch: SequenceOf[Rows], gather: Gather) -> NDArray[np.float32]:
        """Compute the step's tokens; f32[outputs, vocab], valid until the next step.

        Raises `HaloError` when the KV cache is full or the FFN cannot be had.
        """
        tokens = sum(len(rows.tokens) for rows in batch)
        if not 0 < tokens <= self.max_tokens:
            raise ValueError(f"a step of {tokens} tokens")
        try:
            return self._compute(batch, tokens, gather)
        except BaseException:  # no token may own two cells when the step is tried again
            for rows in batch:
                self.cells.release(rows.sequence, keep=rows.start)
            raise

    def _compute(self, batch: SequenceOf[Rows], tokens: int, gather: Gather) -> NDArray[np.float32]:
        tracer = self.tracer
        tracer.start(tracer.now())
        outputs = self._prepare(batch)
        tracer.begin_step(tokens)  # not before: there is no step, and no round, in a full cache
        layers = self._layer_graphs(tuple(len(rows.tokens) for rows in batch))
        layers.look(self._mask(batch))
        embed, head = self._end_graphs(tokens, outputs)
        tracer.lap(_PREPARE)
        embed()
        tracer.lap(_EMBED)
        for layer, attention in enumerate(layers.graphs):
            tracer.layer = layer
            attention()
            tracer.lap(_ATTENTION)
            gather.ffn(layer, tokens)
        tracer.layer = NO_LAYER
        if outputs:
            head()
            tracer.lap(_HEAD)
        tracer.end_step()
        return self._logits[:outputs]

    def _prepare(self, batch: SequenceOf[Rows]) -> int:
        """Fill the step's inputs but the mask; the number of rows that need logits."""
        inputs, cells, row, outputs = self.inputs, self.cells, 0, 0
        for rows in batch:
            stop = row + len(rows.tokens)
            inputs.tokens[row:stop] = rows.tokens
            inputs.positions[row:stop] = rows.positions
            inputs.sequences[row:stop] = rows.sequence
            inputs.cells[row:stop] = cells.allocate(rows.sequence, rows.positions)
            self._selected[outputs : outputs + rows.outputs] = range(stop - rows.outputs, stop)
            outputs += rows.outputs
            row = stop
        return outputs

    def _mask(self, batch: SequenceOf[Rows]) -> list[range]:
        """Fill the step's mask; the cells that each sequence looks at."""
        windows, row = [], 0
        for rows in batch:
            window = self._cache.window(self.cells.span(rows.sequence))
            mask = self.inputs.mask[row : row + len(rows.tokens), : len(window)]
            self.cells.fill_mask(mask, window.start, rows.sequence, rows.positions)
            windows.append(window)
            row += len(rows.tokens)
        return windows

    def _layer_graphs(self, rows: tuple[int, ...]) -> _LayerGraphs:
        def build() -> _LayerGraphs:
            arena, layers = Arena(), range(self.params.n_layers)
            return _LayerGraphs([self._attention.build(layer, rows, arena) for layer in layers])

        return _kept(self._layers, rows, build)

    def _end_graphs(self, tokens: int, outputs: int) -> tuple[Graph, Graph]:
        """Embedding and head; of the latter one also where no row needs it."""
        runtime, gguf, acts, outputs = self._runtime, self._gguf, self.activations, max(outputs, 1)
        embedding = _kept(
            self._embeddings,
            tokens,
            lambda: build_embedding(runtime, gguf, tokens, acts, self.inputs),
        )
        head = _kept(
            self._heads,
            outputs,
            lambda: build_head(
                runtime, gguf, self.params, range(self.params.vocab), self._selected[:outputs],
                acts, self._logits,
            ),
        )  # fmt: skip
        return embedding, head


def _kept(graphs: OrderedDict[_Key, _Built], key: _Key, build: Callable[[], _Built]) -> _Built:
    """What was built for `key`, of the MAX_GRAPH_SETS last used."""
    if key not in graphs:
        graphs[key] = build()
        if len(graphs) > MAX_GRAPH_SETS:
            graphs.popitem(last=False)
    graphs.move_to_end(key)
    return graphs[key]

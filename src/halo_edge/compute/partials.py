"""The end of a round at the root: its own partial and those that came, added up."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import ggml

from halo_edge.compute.context import GraphContext
from halo_edge.compute.ffn import MAX_GRAPH_SETS
from halo_edge.compute.rows import Rows
from halo_edge.compute.runtime import Arena, Graph, Runtime


class PartialSum:
    """Adds the rows of `partials`, encoded or not, to those of `total`, f32."""

    def __init__(self, runtime: Runtime, partials: Sequence[Rows], total: Rows) -> None:
        self._runtime = runtime
        self._partials = partials
        self._total = total
        self._graphs: OrderedDict[int, Graph] = OrderedDict()

    def add(self, tokens: int) -> None:
        """Add the first `tokens` rows."""
        graph = self._graphs.get(tokens)
        if graph is None:
            graph = self._graphs[tokens] = self._build(tokens)
            if len(self._graphs) > MAX_GRAPH_SETS:
                self._graphs.popitem(last=False)
        self._graphs.move_to_end(tokens)
        graph()

    def _build(self, tokens: int) -> Graph:
        c = GraphContext(nodes=8 + 4 * len(self._partials))
        total = self._total.read(c, tokens)
        for partial in self._partials:
            total = ggml.ggml_add(c.ctx, total, partial.read(c, tokens))
        self._total.write(c, total, tokens)
        return Graph(self._runtime, c, Arena())

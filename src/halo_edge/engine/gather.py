"""Where the decode loop gets a layer's FFN from.

The engine knows this interface and nothing of what is behind it: the same process (`LocalFfn`), or
the rounds of a cluster.
"""

from __future__ import annotations

from typing import Final, Protocol

from halo_edge.compute.ffn import FfnGraphs
from halo_edge.engine.trace import Activity, Tracer

_OWN_FFN: Final = Activity.OWN_FFN


class Gather(Protocol):
    """Computes the FFN of one layer after another, for the tokens of one step."""

    def ffn(self, layer: int, tokens: int) -> None:
        """Read the first `tokens` rows of the step's `x`, write those of its `ffn` (f32[T, H]).

        Layers come in order; layer 0 begins a new step. Raises `HaloError` if it cannot be had.
        """


class LocalFfn:
    """The whole FFN in this process."""

    def __init__(self, graphs: FfnGraphs, tracer: Tracer) -> None:
        self._graphs = graphs
        self._tracer = tracer

    def ffn(self, layer: int, tokens: int) -> None:
        self._graphs.run(layer, tokens)
        self._tracer.lap(_OWN_FFN)

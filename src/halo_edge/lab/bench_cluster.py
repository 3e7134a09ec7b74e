"""The real engine's FFN in rounds of a root and three workers on this machine, with a stopwatch.

See `cluster/bench_rounds.py` for what a round does here.
"""

from __future__ import annotations

from collections.abc import Sequence

from halo_edge.cluster.bench_rounds import WORKERS, BenchRounds
from halo_edge.cluster.stopwatch import Stopwatch
from halo_edge.compute.ffn import FfnGraphs, FfnWeights
from halo_edge.compute.rows import Rows
from halo_edge.compute.runtime import Runtime
from halo_edge.compute.wire import Wire, WireCodec
from halo_edge.engine.engine import PREFILL_CHUNK
from halo_edge.engine.forward import Forward
from halo_edge.engine.trace import Activity


class BenchCluster:
    """A `Gather` for decode (one token a step) and for prefill, where the whole FFN is computed
    here. Laps of `watch`: those of `BenchRounds`, and "whole" and "prefill", a layer's FFN for one
    token and for a chunk of a prompt. Use as a context manager."""

    def __init__(self, forward: Forward, whole: Sequence[FfnWeights], hidden: int) -> None:
        """`whole`: of each layer."""
        self._tracer = forward.tracer
        self.watch = Stopwatch()
        runtime, acts = Runtime(1), forward.activations
        parts = [
            [(_part(weights, i, WORKERS + 1),) for weights in whole] for i in range(WORKERS + 1)
        ]
        self._whole = FfnGraphs(
            runtime, [(weights,) for weights in whole], Rows.f32(acts.x), Rows.f32(acts.ffn)
        )
        self._whole.prepare()
        codecs = WireCodec(Wire.MIXED.x, hidden), WireCodec(Wire.MIXED.partial, hidden)
        self._rounds = BenchRounds(runtime, self.watch, codecs, acts.x, acts.ffn, parts)

    def ffn(self, layer: int, tokens: int) -> None:
        if tokens == 1:
            self._rounds.round(layer)
        self.watch.start()
        self._whole.run(layer, tokens)
        if tokens in (1, PREFILL_CHUNK):
            self.watch.lap("whole" if tokens == 1 else "prefill")
        self._tracer.lap(Activity.OWN_FFN)

    def close(self) -> None:
        self._rounds.close()

    def __enter__(self) -> BenchCluster:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _part(weights: FfnWeights, i: int, n: int) -> FfnWeights:
    """The `i`-th of `n` parts, cut between the quantisation's blocks. Raises ValueError where there
    is no such place."""
    values, _ = weights.down.block
    blocks = weights.down.columns // values
    start, stop = i * blocks // n * values, (i + 1) * blocks // n * values
    down = weights.down.column_range(start, stop)
    if down is None or start == stop:
        raise ValueError("too few neurons to be parted")
    return FfnWeights(weights.gate.row_range(start, stop), weights.up.row_range(start, stop), down)

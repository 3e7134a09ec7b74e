"""A model whose FFN can be looked at and interfered with while it computes a window of text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from halo_edge.compute.ffn import FfnWeights
from halo_edge.compute.tapped_ffn import TappedFfn, dequantised
from halo_edge.engine.forward import Rows
from halo_edge.engine.kv_cells import SequenceId
from halo_edge.engine.load import LoadedModel

Floats = NDArray[np.float32]
Look = Callable[[int, slice, Floats, Floats, Floats], None]
"""Told after each layer: layer, the rows' positions, x, activations, and FFN output of these rows.
They are views; what is changed in the output is what the model goes on with."""
Spoil = Callable[[int, slice, Floats, Floats], None]
"""Told between the halves of each layer's FFN: layer, positions, x, and the activations to
change."""
Judge = Callable[[slice, Floats], None]
"""Told after each step: positions, and the logits there, f32[n, vocab], valid during the call."""

_SEQUENCE: Final = SequenceId(1 << 20)


@dataclass(frozen=True, eq=False)
class Replay:
    """What the FFN answered in an earlier run of the same window, f32[L, T, H]: the layers before
    `first` need not be computed again."""

    outputs: Floats
    first: int


class TappedModel:
    """Computes windows of text with everybody's hands in the FFN."""

    def __init__(self, model: LoadedModel) -> None:
        self.model = model
        acts = model.forward.activations
        self._weights = [
            FfnWeights.from_gguf(model.gguf, layer) for layer in range(model.params.n_layers)
        ]
        self._ffn = TappedFfn(model.runtime, self._weights, acts.x, acts.ffn)
        self._x, self._out = acts.x, acts.ffn
        self._positions = slice(0, 0)
        self._look: Look | None = None
        self._spoil: Spoil | None = None
        self._replay: Replay | None = None

    def down(self, layer: int) -> Floats:
        """The layer's `down` as numbers, f32[H, F]: made anew each time."""
        return dequantised(self._weights[layer].down)

    def run(
        self,
        window: Sequence[int],
        *,
        look: Look | None = None,
        spoil: Spoil | None = None,
        judge: Judge | None = None,
        replay: Replay | None = None,
    ) -> None:
        """Compute a window afresh. Layers that are replayed are neither looked at nor spoilt.

        Raises `HaloError` where the KV cache is too small.
        """
        forward = self.model.forward
        self._look, self._spoil, self._replay = look, spoil, replay
        try:
            for start in range(0, len(window), forward.max_tokens):
                chunk = window[start : start + forward.max_tokens]
                self._positions = slice(start, start + len(chunk))
                outputs = len(chunk) if judge is not None else 0
                logits = forward.step([Rows(_SEQUENCE, chunk, start, outputs)], self)
                if judge is not None:
                    judge(self._positions, logits)
        finally:
            forward.cells.release(_SEQUENCE)

    def ffn(self, layer: int, tokens: int) -> None:
        """See `Gather.ffn`."""
        ffn, replay, at = self._ffn, self._replay, self._positions
        if replay is not None and layer < replay.first:
            self._out[:tokens] = replay.outputs[layer, at]
            return
        ffn.activate(layer, tokens)
        activations = ffn.activations[:tokens]
        if self._spoil is not None:
            self._spoil(layer, at, self._x[:tokens], activations)
        ffn.project(layer, tokens)
        if self._look is not None:
            self._look(layer, at, self._x[:tokens], activations, self._out[:tokens])

"""The control of every comparison: a run in which one vector differs by less than rounding does.

Weights are multiplied in integers, so every layer rounds what it is given. A difference that is
too small to matter sends some of these roundings the other way, and from then on all that is
computed differs by rounding errors, for as long as the KV cache remembers. That has a KL of its
own, which no smaller cause can fall below, and which is no damage of what was lost.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from halo_edge.engine.gather import Gather

# Of a window; not the first, which in many models all others attend to.
POSITION: Final = 8
RELATIVE: Final = 1e-4
SEED: Final = 1


class NudgedFfn:
    """A `Gather` that moves one layer's output at one position of every window of `context` tokens,
    which are computed by `step_tokens`. `ffn`: f32[T, H], the step's."""

    def __init__(
        self,
        gather: Gather,
        ffn: NDArray[np.float32],
        layer: int,
        context: int,
        step_tokens: int,
    ) -> None:
        self._gather = gather
        self._ffn = ffn
        self._layer = layer
        self._steps = -(-context // step_tokens)
        self._in_step, self._row = divmod(POSITION, step_tokens)
        self._step = -1
        noise = np.random.default_rng(SEED).standard_normal(ffn.shape[1], np.float32)
        self._noise = np.float32(RELATIVE) * noise

    def ffn(self, layer: int, tokens: int) -> None:
        self._gather.ffn(layer, tokens)
        if layer == 0:
            self._step = (self._step + 1) % self._steps
        if layer == self._layer and self._step == self._in_step:
            row = self._ffn[self._row]
            row += self._noise * np.sqrt(np.mean(row**2))

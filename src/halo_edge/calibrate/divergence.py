"""KL divergence from what a model said undisturbed."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from halo_edge.calibrate.tap import Floats


class Reference:
    """The distributions of one window. It takes 4 bytes for each token of the vocabulary at each
    position."""

    def __init__(self, positions: int, vocab: int) -> None:
        self._p: Floats = np.zeros((positions, vocab), np.float32)
        self._entropy = np.zeros(positions)

    def keep(self, positions: slice, logits: Floats) -> None:
        """What it said there: a `Judge`."""
        for at, row in zip(range(positions.start, positions.stop), logits, strict=True):
            below = row - row.max()
            p = np.exp(below)
            total = float(p.sum(dtype=np.float64))
            p /= np.float32(total)
            self._p[at] = p
            self._entropy[at] = np.log(total) - float(p @ below)

    def nats(self, positions: slice, logits: Floats) -> NDArray[np.float64]:
        """KL(reference || softmax(logits)), f64[n]. A figure below 0 is rounding, and becomes 0."""
        nats = np.empty(len(logits))
        for i, row in enumerate(logits):
            at = positions.start + i
            below = row - row.max()
            total = float(np.exp(below).sum(dtype=np.float64))
            nats[i] = np.log(total) - float(self._p[at] @ below) - self._entropy[at]
        return np.maximum(nats, 0.0)

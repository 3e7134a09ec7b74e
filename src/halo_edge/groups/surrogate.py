"""What is put in the place of a device's partial that is gone on without: a linear map of z.

The weights are the device's own, C_d = D_d R_d; who computes and sends them, and who improves them,
is not known here.
"""

from __future__ import annotations

from enum import Enum
from typing import Final

import numpy as np

from halo_edge.groups.profile import Floats, Profile


class Fill(Enum):
    """What stands for a partial: nothing, its mean, or what the sketch says of it."""

    ZERO = "zero"
    MEAN = "mean"
    SKETCH = "sketch"


MAX_WEIGHT: Final = 1e6
"""Of a surrogate; z is of the order of 1, and the largest activations known are 1e4."""


class Surrogate:
    """The fill of one device's partials, all layers.

    `weights`: f32[L, H, n]: n - 1 columns for as many of the first features, and one that is added.
    Of what `Sketch.of` gives, z is the first K. A sketch fill has K + 1 columns, or more after it
    was `widened`; a constant has 1; none at all is zero.
    """

    def __init__(self, weights: Floats) -> None:
        """Raises `ValueError` for weights that are not finite or beyond anything known."""
        # NaN is neither.
        if not (weights.max(initial=0) <= MAX_WEIGHT and weights.min(initial=0) >= -MAX_WEIGHT):
            raise ValueError("weights out of range")
        self.weights = weights

    @classmethod
    def of(cls, fill: Fill, weights: Floats, profile: Profile) -> Surrogate:
        """`weights`: C_d of all layers, f32[L, H, K + 1]. Those of the sketch are kept, not copied.

        Raises `ValueError` as the constructor does, and for another shape than the profile's.
        """
        first = profile.layers[0].basis
        if weights.shape != (len(profile.layers), first.shape[1], first.shape[0] + 1):
            raise ValueError(f"weights of shape {list(weights.shape)}")
        surrogate = cls(weights)
        if fill is Fill.SKETCH:
            return surrogate
        if fill is Fill.ZERO:
            return cls(np.zeros((*weights.shape[:2], 0), np.float32))
        means = np.stack([layer.mean for layer in profile.layers])
        constant = np.einsum("lhk,lk->lh", weights[:, :, :-1], means) + weights[:, :, -1]
        return cls(constant[:, :, None].astype(np.float32))

    def fill(self, layer: int, features: Floats, out: Floats) -> None:
        """Write what stands for the partials of rows with these `features`, as `Sketch.of` gives
        them for the layer, into `out`, f32[T, H]."""
        weights = self.weights[layer]
        columns = weights.shape[1]
        if columns <= 1:
            out[:] = weights[:, 0] if columns else 0.0
            return
        np.matmul(features[:, : columns - 1], weights[:, :-1].T, out=out)
        out += weights[:, -1]

    @property
    def learns(self) -> bool:
        """Whether it depends on z, so that there is something to learn."""
        return bool(self.weights.shape[2] > 1)

    def widen(self, features: int) -> None:
        """Have it read more features than before, of which it knows nothing yet."""
        more = features + 1 - self.weights.shape[2]
        if more > 0:
            before_constant = np.full(more, self.weights.shape[2] - 1)
            self.weights = np.insert(self.weights, before_constant, 0.0, axis=2)

    def left(self, layer: int, features: Floats, partial: Floats) -> Floats:
        """What the fill does not say of `partial`, f32[n, H]. `features`: with 1 as the last,
        f32[n, features + 1]."""
        weights = self.weights[layer]
        columns = weights.shape[1]
        if columns <= 1:
            return partial - (weights[:, 0] if columns else np.float32(0))
        rest: Floats = partial - features @ weights.T
        return rest

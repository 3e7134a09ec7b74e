"""Which tokens are as tokens usually are.

At some, mostly the first of a text, a layer's FFN answers with many times the energy that it has
anywhere else: attention sinks. One of them outweighs everything else in a mean, so they are left
out of all means, and looked at by themselves.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from halo_edge.calibrate.tap import Floats

OUTLIER: Final = 50.0
"""Times the typical energy of the layer's outputs: beyond it a token is out of the ordinary."""


def energies(out: Floats) -> Floats:
    """|out|^2 of each row of f32[T, H], f32[T]."""
    result: Floats = np.einsum("th,th->t", out, out)
    return result


def is_usual(energy: Floats, typical: float) -> NDArray[np.bool_]:
    """bool[T]; `typical`: the median energy over many tokens."""
    usual: NDArray[np.bool_] = energy <= OUTLIER * typical
    return usual

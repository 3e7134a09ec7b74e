"""The first pass over the text: which neurons matter, which fire together, and in which directions
the inputs vary. From that come the order of the neurons and the basis of the sketch.

What it keeps does not grow with the text: see the constants.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from halo_edge.calibrate.order import permutation
from halo_edge.calibrate.tap import Floats, TappedModel
from halo_edge.calibrate.usual import energies, is_usual
from halo_edge.groups.profile import quantised

FEATURES: Final = 128
"""Columns of a random projection of each neuron's activations over all tokens: inner products of
its rows are those of the activations to within a tenth (Johnson-Lindenstrauss)."""
SAMPLE_BYTES: Final = 256 << 20
"""The most memory for inputs kept for the principal directions, all layers."""
MOST_SAMPLES: Final = 2048
OVERSAMPLING: Final = 16
POWER_ITERATIONS: Final = 6
"""Of the randomised principal component analysis (Halko, Martinsson, Tropp 2011, algorithm 4.4)."""


@dataclass(frozen=True, eq=False)
class Structure:
    """Of all layers: `permutations`, i32[L, F]; `bases`, f32[L, K, H], as a profile keeps them;
    `typical`, f64[L], the median energy of the FFN's output."""

    permutations: NDArray[np.int32]
    bases: Floats
    typical: NDArray[np.float64]


class LayerCounts:
    """Of one layer: importance, co-activation, and a sample of x."""

    def __init__(self, norms: Floats, hidden: int, samples: int, stride: int) -> None:
        """`norms`: f32[F], of the columns of `down`. `samples`: how many inputs to keep, one of
        `stride`."""
        self._norms = norms
        self._absolute = np.zeros(len(norms))
        self._features = np.zeros((len(norms), FEATURES), np.float32)
        self._sample = np.zeros((samples, hidden), np.float16)
        self._kept = self._seen = 0
        self._stride = stride
        self._medians: list[float] = []

    def add(self, x: Floats, activations: Floats, out: Floats, signs: Floats) -> None:
        """Rows of one step: f32[T, H], f32[T, F], f32[T, H]. `signs`: f32[T, FEATURES], 1 or -1."""
        energy = energies(out)
        self._medians.append(float(np.median(energy)))
        usual = is_usual(energy, self.typical)
        x, absolute = x[usual], np.abs(activations[usual])
        self._absolute += absolute.sum(axis=0)
        # Centred, or all neurons would seem to fire together a little.
        centred = absolute - absolute.mean(axis=0)
        self._features += centred.T @ signs[usual]
        first = -self._seen % self._stride
        rows = x[first :: self._stride][: len(self._sample) - self._kept]
        self._sample[self._kept : self._kept + len(rows)] = rows
        self._kept += len(rows)
        self._seen += len(x)

    @property
    def typical(self) -> float:
        """The median of the steps' median energies so far."""
        return float(np.median(self._medians))

    @property
    def importance(self) -> Floats:
        """f32[F]: mean |a| times the norm of the neuron's column of `down`."""
        return (self._absolute / max(self._seen, 1) * self._norms).astype(np.float32)

    @property
    def features(self) -> Floats:
        """f32[F, FEATURES]: see `order.permutation`."""
        return self._features

    def basis(self, rank: int) -> Floats:
        """B, f32[rank, H]: principal directions about the origin, scaled to a second moment of 1,
        as a profile keeps them."""
        sample = self._sample[: self._kept].astype(np.float32)
        hidden = sample.shape[1]
        directions = np.random.default_rng(0).standard_normal(
            (hidden, min(rank + OVERSAMPLING, hidden)), np.float32
        )
        for _ in range(POWER_ITERATIONS):  # a full decomposition of 4096 directions takes a minute
            directions, _ = np.linalg.qr(sample.T @ (sample @ directions))
        projected = sample @ directions
        moments = (projected.T @ projected).astype(np.float64) / max(self._kept, 1)
        values, vectors = np.linalg.eigh(moments)
        top = np.argsort(-values, kind="stable")[:rank]
        deviation = np.sqrt(np.maximum(values[top], 1e-12 * values.max() + 1e-30))
        basis = ((directions @ vectors[:, top]) / deviation).T.astype(np.float32)
        # In the order in which a checkpoint has it: products of another differ in the last bit.
        return np.ascontiguousarray(quantised(basis))


def first_pass(
    tapped: TappedModel,
    pieces: Sequence[Sequence[int]],
    group_size: int,
    rank: int,
    seed: int,
    progress: Callable[[int], None],
) -> Structure:
    """Over all of `pieces`. `progress` is told the tokens of each."""
    params = tapped.model.params
    rng = np.random.default_rng([seed, 1])
    tokens = sum(map(len, pieces))
    most = min(MOST_SAMPLES, SAMPLE_BYTES // (2 * params.n_layers * params.hidden))
    samples = max(4 * rank, most)
    layers = [
        LayerCounts(
            np.linalg.norm(tapped.down(layer), axis=0),
            params.hidden,
            min(samples, tokens),
            max(1, tokens // samples),
        )
        for layer in range(params.n_layers)
    ]
    signs: Floats = np.zeros((0, FEATURES), np.float32)

    def look(layer: int, _: slice, x: Floats, activations: Floats, out: Floats) -> None:
        nonlocal signs
        if layer == 0:
            signs = rng.choice(np.array([-1, 1], np.float32), (len(x), FEATURES))
        layers[layer].add(x, activations, out, signs)

    for piece in pieces:
        tapped.run(piece, look=look)
        progress(len(piece))
    orders = [permutation(layer.importance, layer.features, group_size, rng) for layer in layers]
    bases = [layer.basis(min(rank, params.hidden)) for layer in layers]
    return Structure(
        np.stack(orders), np.stack(bases), np.array([layer.typical for layer in layers])
    )

"""Learning while serving: partials that did arrive make the fill and the predicted damage better.

Every partial P with its features z, as `Sketch.of` gives them, is a training pair of its device's
surrogate C. Recursive least squares, a block of rows at a time (Z: [n, features + 1], with a column
of ones):

    A <- f A + (1 - f) A_0 + Z^T Z          f = FORGETTING ^ n
    C <- C + (P - Z C^T)^T Z A^-1

Without forgetting that is C of the ridge regression of all rows on Z whose prior is the profile's
C, at A_0 = PRIOR_TOKENS times the second moments of calibration. With it old rows fade, and A_0
does not: so A never becomes singular, no gain can grow, whatever comes in, and directions of z that
are not seen keep the weights they have. A is symmetric by construction and C a contraction of
itself plus bounded terms: rounding does not pile up.

A is the layer's, shared by the devices, as their inputs are the same; a row that did not arrive
from one of them changes nothing in its C, and what comes later counts a little less.

What is left of a partial before each block, |P - C z|^2, against what was predicted to be left is
the correction of the damage.

Memory, with D remote devices and F features: C is L D H (F + 1) floats, improved in place; A is
L (F + 1)^2 floats; rows that wait for their turn are L BLOCK_ROWS (D H + F + K + 1) floats.
SmolLM2 in 4 devices: 47, 6 and 16 MB; TinyLlama: 122, 4 and 37 MB (`weights_bytes`, `rows_bytes`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray

from halo_edge.groups.corrections import Corrections
from halo_edge.groups.damage import DamageModel
from halo_edge.groups.profile import Floats, Profile
from halo_edge.groups.sketch import EXTENSION
from halo_edge.groups.surrogate import Surrogate

PRIOR_TOKENS: Final = 500.0
"""What the profile counts for. With 100, what was learned of Python repairs other Python files
less, and spoils English text more."""
FORGETTING: Final = 0.9995
"""Of what a row knows, with each row after it: rows are remembered for some 2000."""
BLOCK_ROWS: Final = 64
"""The most rows of a layer that wait for their turn."""
RIPE_ROWS: Final = 48
"""Fewer are not learned from: a block costs as much again as 30 rows."""
TOKENS_PER_BLOCK: Final = 4
"""Not more than one block, of one layer, is learned from for so many tokens. SmolLM2: some 2 ms."""
LAYERS_PER_TOKEN: Final = 6
"""So many layers' partials are kept in a step of one token, in rotation."""
MAX_ENERGY: Final = 100.0
"""Times the usual energy of a partial: beyond it are attention sinks, of 10^5 and more."""
MAX_FEATURES: Final = 16.0
"""Times the usual energy of the features."""
USUAL_ROWS: Final = 300.0
"""Rows over which what is usual is averaged."""
_FLOAT_BYTES: Final = 4
_MIN_EXTENSION: Final = 1e-6  # of a value's mean square: bounds within which f32 can reckon
_MAX_EXTENSION: Final = 1e12
_MAX_MEAN: Final = 0.98  # |mean|^2 of a sketch whose |z|^2 is 1 in any direction


def weights_bytes(n_layers: int, hidden: int, rank: int) -> int:
    """Of memory: one device's C."""
    return n_layers * hidden * (rank + min(EXTENSION, hidden) + 1) * _FLOAT_BYTES


def rows_bytes(n_layers: int, hidden: int, rank: int, devices: int) -> int:
    """Of memory: what learning for so many devices takes beside their Cs."""
    features = rank + min(EXTENSION, hidden)
    rows = BLOCK_ROWS * (devices * hidden + features + rank + 1)
    return n_layers * (rows + (features + 1) ** 2) * _FLOAT_BYTES


class Learner:
    """Improves the surrogates and corrects the damage model that it is given.

    For each step: `observe` what arrived of the layers that are wanted, then `end_step`, which does
    the work.
    """

    def __init__(
        self,
        profile: Profile,
        surrogates: Mapping[int, Surrogate],
        damage: DamageModel,
        extension: int = 0,
    ) -> None:
        """`surrogates`: of each remote device, by its index in the plan; those that learn are
        widened. `extension`: of the sketch."""
        self._surrogates = [surrogates[device] for device in surrogates]
        self._devices = list(surrogates)
        self._index = {device: i for i, device in enumerate(surrogates)}
        self._damage = damage
        self._rank, hidden = profile.layers[0].basis.shape
        features = self._rank + extension
        for surrogate in self._surrogates:
            if surrogate.learns:
                surrogate.widen(features)
        n_layers, n = len(profile.layers), len(surrogates)
        self._n_layers = n_layers
        self._prior = [_moments(layer.mean, extension) for layer in profile.layers]
        self._moments: list[Floats | None] = [None] * n_layers
        self._usual_extension = [0.0] * n_layers  # mean square of a value; 0: none seen yet
        self._usual_energy = [
            [damage.mean_energy(layer, device) for device in self._devices]
            for layer in range(n_layers)
        ]
        self._corrections = Corrections(damage, n_layers, self._devices)
        # Rows that wait, by layer; `_arrived` tells from which devices.
        self._features = np.ones((n_layers, BLOCK_ROWS, features + 1), np.float32)
        self._before = np.empty((n_layers, BLOCK_ROWS, self._rank), np.float32)
        self._partials = np.empty((n_layers, n, BLOCK_ROWS, hidden), np.float32)
        self._arrived = np.zeros((n_layers, n, BLOCK_ROWS), np.bool_)
        self._count = [0] * n_layers
        self._open: tuple[int, slice, slice] | None = None  # layer, rows of the step, where to
        self._first_layer = self._tokens = 0

    def wants(self, layer: int, tokens: int) -> bool:
        """Whether `observe` has a use for this layer's partials in this step of so many tokens."""
        return (
            layer - self._first_layer
        ) % self._n_layers < LAYERS_PER_TOKEN * tokens and self._count[layer] < BLOCK_ROWS

    def observe(
        self,
        layer: int,
        device: int,
        features: Floats,
        z_before: Floats,
        partial: NDArray[np.float32] | NDArray[np.float16],
    ) -> None:
        """A partial that did arrive, whole, [T, H], with `Sketch.of` and `Sketch.before` of its
        layer, the same for all devices of a round. Of many rows some are copied."""
        if self._open is None or self._open[0] != layer:
            self._open = self._begin(layer, features, z_before)
        _, rows, to = self._open
        i = self._index[device]
        self._partials[layer, i, to] = partial[rows]
        self._arrived[layer, i, to] = True

    def end_step(self, tokens: int) -> None:
        """Learn, as much as a step of so many tokens has room for."""
        self._open = None
        self._first_layer = (self._first_layer + LAYERS_PER_TOKEN * tokens) % self._n_layers
        blocks, self._tokens = divmod(self._tokens + tokens, TOKENS_PER_BLOCK)
        with np.errstate(all="ignore"):  # rows that are not finite are left out
            for _ in range(min(blocks, self._n_layers)):
                most = max(self._count)
                if most < RIPE_ROWS:
                    return
                self._learn(self._count.index(most))
            if blocks:
                self._corrections.apply()

    def _begin(self, layer: int, features: Floats, z_before: Floats) -> tuple[int, slice, slice]:
        """Make room for rows of a round."""
        start = self._count[layer]
        room = BLOCK_ROWS - start
        rows = slice(None)
        if len(features) > room:  # evenly spread
            stride = -(-len(features) // room) if room else len(features) + 1
            rows = slice(stride - 1, None, stride)
        features = features[rows]
        to = slice(start, start + len(features))
        self._features[layer, to, :-1] = features
        self._before[layer, to] = z_before[rows]
        self._arrived[layer, :, to] = False
        self._count[layer] = to.stop
        return layer, rows, to

    def _learn(self, layer: int) -> None:
        count, self._count[layer] = self._count[layer], 0
        good = self._usable(layer, count)
        used = np.zeros(count, np.bool_)
        left: list[tuple[int, Floats]] = []
        features, before = self._features[layer, :count], self._before[layer, :count]
        for i, surrogate in enumerate(self._surrogates):
            rows = good & self._arrived[layer, i, :count]
            if not rows.any():
                continue
            partial = self._partials[layer, i, :count]
            energy = np.einsum("nh,nh->n", partial, partial)
            limit = MAX_ENERGY * self._usual_energy[layer][i]
            # Where nearly all rows are beyond the limit, it was wrong and moves.
            seen = float(np.fmin(energy[rows], limit).mean())
            share = _share(int(rows.sum()))
            self._usual_energy[layer][i] += share * (seen - self._usual_energy[layer][i])
            rows &= energy <= limit
            if not rows.any():
                continue
            rest = np.where(rows[:, None], surrogate.left(layer, features, partial), 0)
            self._correct(layer, i, rest, before[rows])
            used |= rows
            if surrogate.learns:
                left.append((i, rest))
        if not left:
            return
        gain = self._gain(layer, np.where(used[:, None], features, 0), int(used.sum()))
        for i, rest in left:
            self._surrogates[i].weights[layer] += rest.T @ gain

    def _usable(self, layer: int, count: int) -> NDArray[np.bool_]:
        """Which of the waiting rows have features as rows usually have, bool[count]."""
        features, before = self._features[layer, :count], self._before[layer, :count]
        z, extension = features[:, : self._rank], features[:, self._rank : -1]
        limit = MAX_FEATURES * self._rank
        usable: NDArray[np.bool_] = np.einsum("nk,nk->n", z, z) <= limit
        usable &= np.einsum("nk,nk->n", before, before) <= limit
        if extension.shape[1] and usable.any():
            squares = np.einsum("nk,nk->n", extension, extension) / extension.shape[1]
            usual = self._usual_extension[layer] or float(np.median(squares[usable]))
            usual = min(max(usual, _MIN_EXTENSION), _MAX_EXTENSION)
            seen = float(np.fmin(squares[usable], MAX_FEATURES * usual).mean())
            usual += _share(int(usable.sum())) * (seen - usual)
            self._usual_extension[layer] = usual
            usable &= squares <= MAX_FEATURES * usual
        return usable

    def _gain(self, layer: int, features: Floats, n: int) -> Floats:
        """Z A^-1, f32[rows, features + 1], of `n` rows and others that are zero; updates A."""
        prior = self._prior[layer].copy()
        extension = np.arange(self._rank, len(prior) - 1)
        prior[extension, extension] *= self._usual_extension[layer]
        moments, forget = self._moments[layer], FORGETTING**n
        if moments is None:
            moments = self._moments[layer] = prior
        else:
            moments *= forget
            moments += (1 - forget) * prior
        moments += features.T @ features
        gain: Floats = np.linalg.solve(moments, features.T).T
        return gain

    def _correct(self, layer: int, i: int, rest: Floats, before: Floats) -> None:
        """`rest`: what is left of the rows of which `before` is the earlier sketch, and zeros."""
        left = float(np.einsum("nh,nh->", rest, rest))
        predicted = float(self._damage.lost_energy(layer, self._devices[i], before).sum())
        self._corrections.add(layer, i, len(before), left, predicted)


def _share(rows: int) -> float:
    """What so many new rows weigh in a mean over `USUAL_ROWS`."""
    return min(1.0, rows / USUAL_ROWS)


def _moments(mean: Floats, extension: int) -> Floats:
    """A_0: of [z, extension, 1], f32[F + 1, F + 1], were the extension's values uncorrelated and of
    mean square 1. Safely positive definite, whatever `mean` a profile claims."""
    squared = float(mean.astype(np.float64) @ mean)
    scale = np.sqrt(min(1.0, _MAX_MEAN / squared)) if squared > 0 else 1.0
    moments = np.eye(len(mean) + extension + 1, dtype=np.float32)
    moments[-1, : len(mean)] = moments[: len(mean), -1] = mean * scale
    return PRIOR_TOKENS * moments

"""The significance of every neuron group for the token just made, and what happened to its layers'
partials.

The thread that computes steps only copies the sketch, some 64 numbers a layer, and only when a
picture was asked for; what is predicted from that is reckoned by whoever looks.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from halo_edge.cluster.relaxation import Happened, Place
from halo_edge.groups.predictor import Predictor
from halo_edge.groups.profile import Floats, Profile

MAX_COLUMNS: Final = 64
MAX_MARKS: Final = 1024
"""In one picture: more than a screen shows."""
LEVELS: Final = 255
# Levels go from this share of what the usual columns that matter least are worth, to so many times
# those that matter most; a few, such as a fragile layer's, lie beyond.
_MARGIN: Final = 3.0
_QUANTILES: Final = (0.01, 0.995)
_TINY: Final = 1e-30


class Source(Protocol):
    """Whom to ask, a `Cluster`."""

    def sketches(self) -> Floats | None: ...

    def happened(self) -> Happened: ...


@dataclass(frozen=True)
class Mark:
    """What became of chunks of a device's partial of a layer since the picture before."""

    layer: int
    device: int
    recovered: int
    filled: int
    taken_over: int


@dataclass(frozen=True)
class Scale:
    """Of the heat map, as long as a session lasts. `least`, `most`: nats, of levels 0 and `LEVELS`.
    `usual`: the levels of the mean energies, as in `Picture`."""

    columns: int
    least: float
    most: float
    usual: str


@dataclass(frozen=True)
class Picture:
    """`levels`: base64 of u8[layers, columns], the logarithm of what each column's groups are worth
    in nats, in the `Scale`; empty without a profile."""

    levels: str
    marks: tuple[Mark, ...]


class Heat:
    """`profile`: in the order of the plan's groups; None: there are no levels."""

    def __init__(self, source: Source, profile: Profile | None, groups: int) -> None:
        self._source = source
        self._profile = profile
        columns = min(groups, MAX_COLUMNS)
        self._starts = np.arange(columns) * groups // columns
        self._predictor: Predictor | None = None
        self._wanted = False
        self._sketches: Floats | None = None
        self._happened: Happened | None = None
        self._shown = source.happened()
        self._least = self._most = 0.0  # logarithms
        usual = ""
        if profile is not None:
            worth = [layer.sensitivity / layer.total for layer in profile.layers]
            self._worth = np.array(worth, np.float32)[:, None]
            energies = np.stack([layer.energy for layer in profile.layers])
            logs = self._logs(energies)
            self._least, self._most = np.quantile(logs, _QUANTILES) + np.log((1 / _MARGIN, _MARGIN))
            usual = self._encoded(energies)
        self.scale = Scale(columns, float(np.exp(self._least)), float(np.exp(self._most)), usual)

    def want(self) -> None:
        """A picture of the next token will be asked for."""
        self._wanted = True

    def note(self) -> None:
        """Between steps, in the thread that computes them."""
        if self._wanted:
            self._sketches, self._happened = self._source.sketches(), self._source.happened()
            self._wanted = False

    def picture(self) -> Picture | None:
        """None where no token has come since the last one was noted."""
        happened, sketches = self._happened, self._sketches
        if happened is None:
            return None
        self._happened = None
        marks, self._shown = _marks(self._shown, happened), happened
        return Picture("" if sketches is None else self._encoded(self._energies(sketches)), marks)

    def _energies(self, sketches: Floats) -> Floats:
        """f32[L, G]."""
        assert self._profile is not None
        if self._predictor is None:
            self._predictor = Predictor(self._profile)
        groups = range(len(self._profile.layers[0].energy))
        before = [sketches[max(layer - 1, 0)][None] for layer in range(len(sketches))]
        energies = [self._predictor.energies(layer, z, groups)[0] for layer, z in enumerate(before)]
        return np.stack(energies)

    def _encoded(self, energies: Floats) -> str:
        """`energies`: f32[L, G]."""
        scaled = (self._logs(energies) - self._least) / (self._most - self._least)
        levels: NDArray[np.uint8] = np.rint(np.clip(scaled, 0, 1) * LEVELS).astype(np.uint8)
        return base64.b64encode(levels.tobytes()).decode()

    def _logs(self, energies: Floats) -> Floats:
        """ln of the nats of each column, f32[L, columns]."""
        in_columns = np.add.reduceat(energies * self._worth, self._starts, axis=1)
        logs: Floats = np.log(np.maximum(in_columns, _TINY))
        return logs


def _marks(before: Happened, now: Happened) -> tuple[Mark, ...]:
    recovered = _more(before.recovered, now.recovered)
    filled = _more(before.filled, now.filled)
    taken_over = _more(before.taken_over, now.taken_over)
    found = []
    for device, layer in sorted({*recovered, *filled, *taken_over})[:MAX_MARKS]:
        counts = (each.get((device, layer), 0) for each in (recovered, filled, taken_over))
        found.append(Mark(layer, device, *counts))
    return tuple(found)


def _more(before: Mapping[Place, int], now: Mapping[Place, int]) -> dict[Place, int]:
    return {place: n - before.get(place, 0) for place, n in now.items() if n != before.get(place)}

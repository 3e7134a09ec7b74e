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
# Nats of a group in a layer: from where it makes no difference to where it cannot be gone without.
_LEAST: Final = 1e-7
_MOST: Final = 1.0


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
class Picture:
    """`levels`: base64 of u8[layers, columns], the logarithm of what each column's groups are worth
    in nats, from `_LEAST` to `_MOST`; empty without a profile."""

    levels: str
    marks: tuple[Mark, ...]


class Heat:
    """`profile`: in the order of the plan's groups; None: there are no levels."""

    def __init__(self, source: Source, profile: Profile | None, groups: int) -> None:
        self.columns = min(groups, MAX_COLUMNS)
        self._source = source
        self._profile = profile
        self._starts = np.arange(self.columns) * groups // self.columns
        self._predictor: Predictor | None = None
        self._wanted = False
        self._sketches: Floats | None = None
        self._happened: Happened | None = None
        self._shown = source.happened()

    def want(self) -> None:
        """A picture of the next token will be asked for."""
        self._wanted = True

    def note(self) -> None:
        """Between steps, in the thread that computes them."""
        if self._wanted:
            self._sketches, self._happened = self._source.sketches(), self._source.happened()
            self._wanted = False

    def usual(self) -> str:
        """The levels of the mean energies."""
        if self._profile is None:
            return ""
        return self._encoded(np.stack([layer.energy for layer in self._profile.layers]))

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
        assert self._profile is not None
        worth = [layer.sensitivity / layer.total for layer in self._profile.layers]
        nats = energies * np.array(worth, np.float32)[:, None]
        in_columns = np.add.reduceat(nats, self._starts, axis=1)
        logs = np.log(np.clip(in_columns, _LEAST, _MOST) / _LEAST) / np.log(_MOST / _LEAST)
        levels: NDArray[np.uint8] = np.rint(logs * LEVELS).astype(np.uint8)
        return base64.b64encode(levels.tobytes()).decode()


def _marks(before: Happened, now: Happened) -> tuple[Mark, ...]:
    def more(kind: str) -> dict[Place, int]:
        counted: Mapping[Place, int] = getattr(now, kind)
        past: Mapping[Place, int] = getattr(before, kind)
        return {place: n - past.get(place, 0) for place, n in counted.items()}

    recovered, filled, taken_over = more("recovered"), more("filled"), more("taken_over")
    found = []
    for device, layer in sorted({*recovered, *filled, *taken_over}):
        place = (device, layer)
        counts = (recovered.get(place, 0), filled.get(place, 0), taken_over.get(place, 0))
        if any(counts):
            found.append(Mark(layer, device, *counts))
    return tuple(found[:MAX_MARKS])

"""What a calibration keeps so that it can be gone on with: its arrays, in memory and, often enough,
in its checkpoint.

What the arrays are is the business of whoever keeps them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from halo_edge.calibrate.checkpoint import Checkpoint

EVERY_S: Final = 15.0
SHARE: Final = 0.02
"""The most of the time that may go into writing."""


class Kept:
    """The arrays of a run, by name; at first those of the checkpoint."""

    def __init__(self, checkpoint: Checkpoint, clock: Callable[[], float]) -> None:
        """`clock`: seconds."""
        self._checkpoint = checkpoint
        self._clock = clock
        self.arrays = checkpoint.load()
        self._write_at = clock() + EVERY_S

    def keep(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """These, too, and write all. Raises `HaloError` where that is not possible."""
        begun = self._clock()
        self.arrays |= arrays
        self._checkpoint.save(self.arrays)
        now = self._clock()
        self._write_at = now + max(EVERY_S, (now - begun) / SHARE)

    def keep_now_and_then(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """As `keep`, if it is time; else forget them."""
        if self._clock() >= self._write_at:
            self.keep(arrays)


def joined(pieces: Sequence[Sequence[int]]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Pieces of text, as they are kept: all tokens, and the length of each piece."""
    tokens = np.concatenate([np.array(piece, np.int32) for piece in pieces])
    return tokens, np.array([len(piece) for piece in pieces], np.int32)


def cut(tokens: NDArray[Any], lengths: NDArray[Any]) -> list[list[int]]:
    """The pieces again."""
    return [piece.tolist() for piece in np.split(tokens, np.cumsum(lengths)[:-1])]

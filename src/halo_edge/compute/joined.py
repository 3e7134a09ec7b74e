"""A weight matrix that lies in pieces: the tiles of a device's shard, below or beside one another.

Repacking copies weights anyway, and then makes one matrix of them. Where they stay in place, the
product is put together from those of the pieces, so that mapped files stay what they are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from itertools import groupby, pairwise
from typing import TypeAlias

import ggml
import numpy as np
from numpy.typing import NDArray

from halo_edge.compute.context import GraphContext, Tensor
from halo_edge.compute.weights import Matrix

Multiply: TypeAlias = Callable[["Weights", Tensor], Tensor]


class Along(IntEnum):
    """The axis on which pieces follow one another."""

    ROWS = 0
    COLUMNS = 1


@dataclass(frozen=True, eq=False)
class Joined:
    """Two or more `parts`, which have the other axis in common. Raises ValueError if they do not,
    or for rows of different types; beside one another types may differ."""

    parts: tuple[Matrix, ...]
    along: Along

    def __post_init__(self) -> None:
        by_rows = self.along is Along.ROWS
        if len(self.parts) < 2 or len({m.columns if by_rows else m.rows for m in self.parts}) != 1:
            raise ValueError("these pieces do not make a matrix")
        if by_rows and len({part.ggml_type for part in self.parts}) != 1:
            raise ValueError("rows below one another are of one type")

    @property
    def rows(self) -> int:
        rows = [part.rows for part in self.parts]
        return sum(rows) if self.along is Along.ROWS else rows[0]

    @property
    def columns(self) -> int:
        columns = [part.columns for part in self.parts]
        return sum(columns) if self.along is Along.COLUMNS else columns[0]

    @property
    def ggml_type(self) -> int:
        """That of the first part; see `one_type`."""
        return self.parts[0].ggml_type

    @property
    def one_type(self) -> bool:
        """Whether it can be one matrix."""
        return len({part.ggml_type for part in self.parts}) == 1

    @property
    def key(self) -> tuple[int, ...]:
        """Equal for the same pieces."""
        return (self.along, *(number for part in self.parts for number in part.key))

    @property
    def stored(self) -> tuple[NDArray[np.uint8], ...]:
        """Where its weights lie."""
        return tuple(part.data for part in self.parts)

    def bytes_2d(self) -> NDArray[np.uint8]:
        """u8[rows, row_bytes], a copy. Raises ValueError for parts of different types."""
        if not self.one_type:
            raise ValueError("parts of different types have no common rows")
        return np.concatenate([part.bytes_2d() for part in self.parts], axis=self.along)

    def contiguous(self) -> Matrix:
        """The same as one matrix, copied. Raises ValueError for parts of different types."""
        return Matrix.whole(self.bytes_2d().reshape(-1), self.ggml_type, self.rows, self.columns)

    def by_type(self) -> list[Weights]:
        """Runs of parts of one type, in order."""
        runs = (tuple(run) for _, run in groupby(self.parts, lambda part: part.ggml_type))
        return [joined(run, self.along) for run in runs]

    def product(
        self, context: GraphContext, pieces: Sequence[Weights], x: Tensor, multiply: Multiply
    ) -> Tensor:
        """The product with `x`, from those of its `pieces`, all parts in order, by `multiply`."""
        if self.along is Along.ROWS:
            parts = [multiply(piece, x) for piece in pieces]
            total = parts[0]
            for part in parts[1:]:
                total = ggml.ggml_concat(context.ctx, total, part, 0)
            return total
        ends = np.cumsum([0, *(piece.columns for piece in pieces)])
        sums = [
            multiply(piece, _columns(context, x, int(start), int(stop)))
            for piece, (start, stop) in zip(pieces, pairwise(ends), strict=True)
        ]
        total = sums[0]
        for each in sums[1:]:
            total = ggml.ggml_add(context.ctx, total, each)
        return total


Weights: TypeAlias = Matrix | Joined


def joined(parts: Sequence[Matrix], along: Along) -> Weights:
    """One part is itself. Raises ValueError for parts that do not fit together."""
    return parts[0] if len(parts) == 1 else Joined(tuple(parts), along)


def _columns(context: GraphContext, x: Tensor, start: int, stop: int) -> Tensor:
    """Columns of f32 rows. Where there are several rows they are copied: kernels of repacked
    weights take four at a time, and these to lie behind one another."""
    ne, nb = x.contents.ne, x.contents.nb
    view = ggml.ggml_view_2d(context.ctx, x, stop - start, ne[1], nb[1], start * nb[0])
    return view if ne[1] == 1 else ggml.ggml_cont(context.ctx, view)

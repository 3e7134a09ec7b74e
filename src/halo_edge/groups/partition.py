"""The partition of a layer's FFN into neuron groups, and into tiles."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

# Neurons of one group. Dropping 30 % of groups of 32 costs less than of 64 (KL .187 against .225)
# but 64 halves everything that is kept per group.
GROUP_SIZE: Final = 64
TILE_NEURONS: Final = 256
"""Of a tile, the piece in which weights are kept and sent. The largest block of a quantisation, so
that a tile cuts none; a megabyte or two of a layer of 7B."""
MOST_MORE: Final = 4
"""So many more pieces than tiles are made of a share at the most: each takes products of its
own."""


@dataclass(frozen=True)
class Partition:
    """`neurons` of a layer in consecutive groups of `group_size` (the last may be smaller)."""

    neurons: int
    group_size: int = GROUP_SIZE

    @property
    def n_groups(self) -> int:
        return -(-self.neurons // self.group_size)

    def neuron_range(self, groups: range) -> range:
        """The neurons of consecutive `groups`."""
        stop = min(groups.stop * self.group_size, self.neurons)
        return range(min(groups.start * self.group_size, stop), stop)


def tiles(neurons: range) -> list[range]:
    """Consecutive `neurons` of a layer cut where tiles end, so that others which overlap them have
    most tiles in common. No neurons are no tiles."""
    first = -(-(neurons.start + 1) // TILE_NEURONS) * TILE_NEURONS
    bounds = [neurons.start, *range(first, neurons.stop, TILE_NEURONS), neurons.stop]
    return [range(*each) for each in pairwise(bounds)] if neurons else []


def tiles_with(neurons: range, known: Collection[range]) -> list[range]:
    """As `tiles`, with those pieces that are `known` where they fit: so that who has these needs no
    others. Not where that makes many more; `known` are tiles, or parts of one."""
    by_start = {
        piece.start: piece for piece in sorted(known, key=len) if piece.stop <= neurons.stop
    }
    found: list[range] = []
    at = neurons.start
    while at < neurons.stop:
        piece = by_start.get(at)
        if piece is None:
            end = min((at // TILE_NEURONS + 1) * TILE_NEURONS, neurons.stop)
            piece = range(at, min((start for start in by_start if at < start < end), default=end))
        found.append(piece)
        at = piece.stop
    plain = tiles(neurons)
    return found if len(found) <= len(plain) + MOST_MORE else plain

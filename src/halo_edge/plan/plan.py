"""A plan: which neuron groups each device holds.

For now every layer is split alike, in consecutive runs of groups. Device 0 is the root.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import accumulate, pairwise

from halo_edge.errors import HaloError


@dataclass(frozen=True)
class Plan:
    """`shares[d]`: the neuron groups of device `d`. Together they are all groups, once."""

    shares: tuple[range, ...]

    def __post_init__(self) -> None:
        if [g for share in self.shares for g in share] != list(range(self.n_groups)):
            raise ValueError("a plan must give every neuron group to exactly one device")

    @property
    def n_groups(self) -> int:
        return sum(len(share) for share in self.shares)

    @property
    def n_devices(self) -> int:
        return len(self.shares)


def split(n_groups: int, weights: Sequence[float]) -> Plan:
    """Give device `d` a part of the groups in proportion to `weights[d]`, rounded to whole groups.

    Equal weights are an equal split. Cumulative sums are rounded (halves always up, in exact
    fractions), so that the error of each device stays below one group. Raises `HaloError` for
    weights that are negative, not finite, or all zero.
    """
    if not any(weights) or not all(0 <= weight < math.inf for weight in weights):
        raise HaloError("--split needs one share of 0 or more per device, and not all of them 0")
    sums = list(accumulate(map(Fraction, weights)))
    half = Fraction(1, 2)
    bounds = [0, *(math.floor(n_groups * part / sums[-1] + half) for part in sums)]
    return Plan(tuple(range(a, b) for a, b in pairwise(bounds)))

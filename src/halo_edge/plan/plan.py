"""A plan: which neuron groups each device holds.

For now every layer is split alike, in consecutive runs of groups. Device 0 is the root.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
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

    Equal weights are an equal split. Cumulative sums are rounded, so that the error of each device
    stays below one group. Raises `HaloError` for weights that are negative or all zero.
    """
    total = sum(weights)
    if not total > 0 or min(weights) < 0:
        raise HaloError("--split needs one share of 0 or more per device, and not all of them 0")
    bounds = [0, *(round(n_groups * part / total) for part in accumulate(weights))]
    bounds[-1] = n_groups
    return Plan(tuple(range(a, b) for a, b in pairwise(bounds)))

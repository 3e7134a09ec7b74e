"""A plan: which neuron groups each device holds, and how they travel.

Every layer is shared out alike, in consecutive runs of groups as they stand in the model's profile,
the most important first. Device 0 is the root.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import accumulate, pairwise
from typing import NamedTuple

from halo_edge.errors import HaloError


class Copies(NamedTuple):
    """How often each chunk is sent at once on a device's link: of x, to it; of its partial."""

    x: int = 1
    partial: int = 1


@dataclass(frozen=True)
class Plan:
    """`shares[d]`: the neuron groups of device `d`. Together they are all groups, once. A worker
    without any takes no part in rounds.

    `copies[d]`: on its link; empty: one each. `resident[d]`: the first groups of its share, which
    stay in memory, while the others are read from storage again for each token; empty: all of every
    share do. `replicas[d]`: groups of others that it holds as well, in spare memory, to step in;
    empty: nobody does. Raises ValueError for what does not fit together.
    """

    shares: tuple[range, ...]
    copies: tuple[Copies, ...] = ()
    resident: tuple[range, ...] = ()
    replicas: tuple[tuple[range, ...], ...] = ()

    def __post_init__(self) -> None:
        in_order = sorted(self.shares, key=lambda share: (share.start, share.stop))
        if [g for share in in_order for g in share] != list(range(self.n_groups)):
            raise ValueError("a plan must give every neuron group to exactly one device")
        for each in (self.copies, self.resident, self.replicas):
            if each and len(each) != len(self.shares):
                raise ValueError("a plan says of every device what it says of one")
        for share, resident in zip(self.shares, self.resident, strict=False):
            if share[: len(resident)] != resident:
                raise ValueError("what stays in memory is the first of a device's own groups")
        for share, replicas in zip(self.shares, self.replicas, strict=False):
            groups = [group for replica in replicas for group in replica]
            if len({*groups, *share}) != len(groups) + len(share):
                raise ValueError("a device holds no group twice")
            if any(not 0 <= group < self.n_groups for group in groups):
                raise ValueError("replicas are of groups that there are")

    @property
    def n_groups(self) -> int:
        return sum(len(share) for share in self.shares)

    @property
    def n_devices(self) -> int:
        return len(self.shares)

    @property
    def workers(self) -> tuple[int, ...]:
        """The devices but the root that take part."""
        return tuple(d for d, share in enumerate(self.shares) if d and share)

    def copies_on(self, device: int) -> Copies:
        """How often chunks travel on its link."""
        return self.copies[device] if self.copies else Copies()

    def resident_on(self, device: int) -> range:
        """The groups of its share that stay in its memory."""
        return self.resident[device] if self.resident else self.shares[device]

    def replicas_on(self, device: int) -> tuple[range, ...]:
        """The groups of others that it holds."""
        return self.replicas[device] if self.replicas else ()

    def of_places(self, places: Sequence[int | None]) -> Plan:
        """The same for devices in another order: device i of it is device `places[i]` of this one,
        or one that takes no part (None). Raises ValueError if one with a share is missing."""
        nobody = range(0)
        return Plan(
            tuple(nobody if i is None else self.shares[i] for i in places),
            tuple(Copies() if i is None else self.copies_on(i) for i in places),
            tuple(nobody if i is None else self.resident_on(i) for i in places),
            tuple(() if i is None else self.replicas_on(i) for i in places),
        )


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

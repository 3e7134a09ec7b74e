"""The partition of a layer's FFN into neuron groups."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

# Neurons of one group. Dropping 30 % of groups of 32 costs less than of 64 (KL .187 against .225)
# but 64 halves everything that is kept per group.
GROUP_SIZE: Final = 64


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

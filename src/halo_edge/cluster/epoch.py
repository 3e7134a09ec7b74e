"""What lasts as long as a plan: the rounds of the devices in it, and what each of them holds.

A session has one epoch after another, of which every one is made ready while the one before is in
use, and begins between two steps.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from halo_edge.cluster.relaxing import Relaxable
from halo_edge.cluster.speed import DecodeClock
from halo_edge.cluster.stand_in import StandIn
from halo_edge.compute.ffn import FfnGraphs
from halo_edge.compute.partials import PartialSum
from halo_edge.sync.ids import DeviceId
from halo_edge.sync.root import RootRounds


@dataclass(frozen=True, eq=False)
class Epoch:
    """`workers`: names for messages. `own` computes the root's shard, `stand_in` what a worker
    owes, and `partials` adds what they sent. `relaxable` is None where there is no profile."""

    rounds: RootRounds
    workers: Mapping[DeviceId, str]
    own: FfnGraphs
    own_clock: DecodeClock
    partials: PartialSum
    stand_in: StandIn
    relaxable: Relaxable | None

"""What a root's user may choose of who holds what, and of how rounds are carried."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from halo_edge.cluster.links import RootLink
from halo_edge.cluster.messages import Transport
from halo_edge.cluster.relaxation import RelaxOptions
from halo_edge.compute.requantise import DownType
from halo_edge.compute.wire import Wire
from halo_edge.groups.placement import Placement
from halo_edge.groups.profile import Profile

DEFAULT_STALL_TIMEOUT_S: Final = 10.0


@dataclass(frozen=True)
class RoundsOptions:
    """Who holds what, and how the rounds are carried.

    `split`: relative shares, the root's first; None: see `scheduled`. `wrap_link`: puts something
    between the rounds and the network, such as `--impair`. `relax`: how far rounds go on without
    what is late or lost. `profile`: gives the neurons their order, changed by `placement`, and
    `down` is what it makes of ffn_down; None: the model file's order. `shards`: where packed shards
    are kept; None: in the user's cache. `scheduled`: without a `split` shares are what the
    scheduler makes of the devices, and follow what they turn out to be; else alike. `replicas`: how
    many other workers hold each worker's neurons, if they have the memory, up to 2; None: one where
    shares are scheduled. `memory_bytes`: that the root may use; None: what there is.
    """

    wire: Wire = Wire.MIXED
    transport: Transport = Transport.UDP
    split: Sequence[float] | None = None
    wrap_link: Callable[[RootLink], RootLink] | None = None
    stall_timeout_s: float = DEFAULT_STALL_TIMEOUT_S
    relax: RelaxOptions = field(default_factory=RelaxOptions)
    profile: Profile | None = None
    placement: Placement = Placement.CRITICAL
    placement_seed: int = 0
    down: DownType = DownType.Q8_0
    shards: Path | None = None
    scheduled: bool = True
    replicas: int | None = None
    memory_bytes: int | None = None

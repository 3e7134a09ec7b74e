"""What a simulation found out."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import fmean, median, quantiles

from halo_edge.sync.statistics import Statistics


@dataclass(frozen=True)
class Tpot:
    """Times per token, seconds."""

    median: float
    mean: float
    p99: float
    max: float


@dataclass(frozen=True)
class DeviceUse:
    """Shares of the time in which tokens were counted: in which the device computed, and in which
    it waited for the network. The rest it waited for a CPU."""

    device: str
    computed: float
    waited: float


@dataclass(frozen=True)
class Simulated:
    """`tokens_s`: the time of each counted token. `root`, `workers`: the protocol's counters,
    `workers` summed. `ended`: why it ended early, or None."""

    ttft_s: float
    tokens_s: tuple[float, ...]
    virtual_s: float
    root: Statistics
    workers: Statistics
    devices: tuple[DeviceUse, ...]
    ended: str | None = None

    @property
    def tpot(self) -> Tpot | None:
        """None where no token was counted."""
        times = self.tokens_s
        if not times:
            return None
        p99 = quantiles(times, n=100, method="inclusive")[-1] if len(times) > 1 else times[0]
        return Tpot(median(times), fmean(times), p99, max(times))

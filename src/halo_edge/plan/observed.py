"""A device as it shows itself: its benchmark at first, then what real rounds take it.

All times are CPU time. Why a round took longer than that (a quota, other programs, devices that
share its cores) is the device's `speed`, not its profile.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Final

from halo_edge.plan.costs import Costs
from halo_edge.plan.device import Device, SharedCores
from halo_edge.plan.device_profile import DeviceProfile
from halo_edge.plan.estimate import Estimate
from halo_edge.plan.link import Link
from halo_edge.plan.model_shape import ModelShape

OVERHEAD: Final = 0.8
"""So many times what it took in a benchmark the protocol is taken to take in place, until there are
rounds to say so. They have said 0.5 to 1.8 (docs/planning.md). On the low side: who is given work
for it says so within seconds, but of who is not nothing is ever learned."""
_PROTOCOL: Final = (
    "encode_s",
    "add_s",
    "round_s",
    "serve_s",
    "seal_s",
    "send_s",
    "receive_s",
    "wake_s",
)
# Keys and values are read in what `between_layers` was told of.
_NO_KV: Final = 1e18
# A thread that gets so much of the time that it wants is not held up by anything to speak of.
_UNDISTURBED: Final = 0.9


@dataclass(frozen=True)
class Allowance:
    """What a device may use. `quota`: CPU time a second for each of its threads, 1 where there is
    no limit. `memory_bytes`, `storage_bytes_per_s`, `cores`: as a `Device` has them."""

    quota: float = 1.0
    memory_bytes: int | None = None
    storage_bytes_per_s: float | None = None
    cores: SharedCores | None = None


class Observed:
    """One device's. `link` and `allowance` are the owner's to replace."""

    def __init__(self, name: str, benchmark: DeviceProfile, shape: ModelShape) -> None:
        self.name = name
        self.link = Link()
        self.allowance = Allowance()
        self._benchmark = benchmark
        self._shape = shape
        self._bytes_per_s = Estimate(benchmark.memory_bytes_per_s)
        self._got = Estimate(1.0)
        self._overhead = Estimate(OVERHEAD)
        costs = Costs(benchmark, shape)
        self._attention_s = Estimate(costs.attention_s(1, 0))
        self._step_s = Estimate(costs.prepare_s(1) + costs.head_s())

    def ffn(self, neurons: int, cpu_s: float, wall_s: float, rounds: int) -> None:
        """Means of so many decoded tokens' FFN in one layer, of which it has so many neurons."""
        if not neurons or not cpu_s > 0:
            return
        nbytes = self._shape.ffn_weights / self._shape.ffn * neurons * self._shape.weight_bytes
        # A graph's own time cannot be told from the weights' in one sum.
        streamed_s = max(cpu_s - self._benchmark.graph_s, cpu_s / 2)
        self._bytes_per_s.sample(nbytes / streamed_s, rounds)
        self._got.sample(min(1.0, cpu_s / wall_s) if wall_s > 0 else 0.0, rounds)

    def root(self, layer_s: float, step_s: float, rounds: int) -> None:
        """At the root, means: of what is between the rounds of two layers, and between those of two
        tokens."""
        self._attention_s.sample(layer_s, rounds)
        self._step_s.sample(step_s, rounds)

    def protocol(self, round_s: float, expected_s: float, rounds: int) -> None:
        """Mean CPU time of a round beside the FFN, and what it was expected to be by `device`."""
        if expected_s > 0:
            self._overhead.sample(self._overhead.value * round_s / expected_s, rounds)

    def device(self) -> Device:
        """As the scheduler wants it."""
        allowance = self.allowance
        speed = min(1.0, allowance.quota)
        # Devices that share cores wait for one another; the plan knows of that.
        if speed == 1 and allowance.cores is None and self._got.value < _UNDISTURBED:
            speed = self._got.value
        return Device(
            name=self.name,
            profile=self._profile(),
            speed=speed,
            memory_bytes=allowance.memory_bytes,
            storage_bytes_per_s=allowance.storage_bytes_per_s,
            link=self.link,
            cores=allowance.cores,
        )

    def _profile(self) -> DeviceProfile:
        """Such that its costs are what was observed."""
        bare = replace(
            self._benchmark,
            memory_bytes_per_s=self._bytes_per_s.value,
            attention_s=0.0,
            token_s=0.0,
            kv_bytes_per_s=_NO_KV,
            **self._protocol(),
        )
        costs = Costs(bare, self._shape)
        return replace(
            bare,
            attention_s=max(0.0, self._attention_s.value - costs.attention_s(1, 0)),
            token_s=max(0.0, self._step_s.value - costs.head_s()),
        )

    def _protocol(self) -> dict[str, Any]:
        factor = self._overhead.value
        return {name: factor * getattr(self._benchmark, name) for name in _PROTOCOL}

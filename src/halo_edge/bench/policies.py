"""Ways to deal with losses that experiments compare, and the clusters in the lab that they need.

*Bare* is a strict cluster that waits for everything, sends everything once, and has nobody who
could take over: over UDP what this project was before it had those, over TCP what others do.
*Strict* also gives nothing up, but sends copies where that pays and takes over for a device that is
away. *Balanced* and *fast* go on without chunks, on a budget.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Final

from halo_edge.bench.cores import last_core
from halo_edge.bench.experiment import Settings, Tell
from halo_edge.bench.lab_cluster import LabCluster, LabSample, Links, lab_spec, open_lab_cluster
from halo_edge.cluster.messages import Transport
from halo_edge.cluster.relaxation import LEVELS, RelaxOptions
from halo_edge.errors import HaloError
from halo_edge.groups.placement import Placement
from halo_edge.lab.link import LinkSettings

DEVICES: Final = 4
# Each way on every worker's link: an RTT of 2 ms.
DELAY_MS: Final = 1.0
# Over UDP so many tokens come before those that are measured on new links: a cluster in use has
# estimated their loss and round trip. TCP's windows are largest when a link turns bad.
SETTLE_TOKENS: Final = 4
# After a lossy time copies go on for a while; on a clean link there are to be none.
CLEAN_SETTLE_TOKENS: Final = 36


@dataclass(frozen=True)
class Policy:
    """`relax`: what the rounds are told."""

    name: str
    relax: RelaxOptions
    transport: Transport = Transport.UDP

    def __str__(self) -> str:
        return f"{self.transport.value}, {self.name}"

    def settle(self, clean: bool) -> int:
        """Tokens decoded over new links, which lose something or are `clean`, before those that
        count."""
        if self.transport is not Transport.UDP:
            return 0
        return CLEAN_SETTLE_TOKENS if clean else SETTLE_TOKENS


_ALONE: Final = RelaxOptions(take_over=False, max_copies=1)
BARE: Final = Policy("bare", _ALONE)
TCP: Final = Policy("bare", _ALONE, Transport.TCP)
STRICT, BALANCED, FAST = (
    Policy(name, RelaxOptions(kl_budget=LEVELS[name])) for name in ("strict", "balanced", "fast")
)


def policies(settings: Settings) -> list[Policy]:
    """Those that relax need a profile."""
    if settings.quick:
        return [STRICT, *([BALANCED] if settings.profile is not None else []), TCP]
    relaxing = [BALANCED, FAST] if settings.profile is not None else []
    return [BARE, STRICT, *relaxing, TCP]


def check_profile(settings: Settings, wanted: Iterable[RelaxOptions]) -> None:
    """Raises `HaloError` where something is to be relaxed and nobody knows what it would cost."""
    if settings.profile is None and any(options.relaxes for options in wanted):
        raise HaloError(
            f"{settings.model.name} has no profile, which says what going on without chunks would "
            f"cost; make one with `halo calibrate`"
        )


@contextmanager
def open_one_core(
    name: str,
    settings: Settings,
    transport: Transport,
    tell: Tell,
    placement: Placement = Placement.CRITICAL,
) -> Iterator[LabCluster]:
    """Four devices on one core, RTT 2 ms, no loss yet: computing takes turns there, and every stall
    adds in full. The lab's forwarder has the other cores. Raises `HaloError`."""
    spec = lab_spec(
        f"bench-{name}", DEVICES, link=LinkSettings(delay_ms=DELAY_MS), cores=(last_core(),)
    )
    with open_lab_cluster(
        spec,
        settings.model,
        tell,
        transport=transport,
        profile=settings.profile,
        placement=placement,
    ) as cluster:
        yield cluster


class PolicyClusters:
    """A cluster for each transport, which decodes under one policy after another."""

    def __init__(self, clusters: Mapping[Transport, LabCluster]) -> None:
        self._clusters = clusters

    def decode(
        self, policy: Policy, links: Links, tokens: int, limit_s: float, settle: int = 0
    ) -> LabSample:
        """Raises `HaloError` when the cluster fails."""
        cluster = self._clusters[policy.transport]
        cluster.relax(policy.relax)
        return cluster.measure(links, tokens, limit_s, settle)

    def warnings(self) -> list[str]:
        return [line for cluster in self._clusters.values() for line in cluster.warnings()]


@contextmanager
def policy_clusters(
    name: str, settings: Settings, used: Sequence[Policy], tell: Tell
) -> Iterator[PolicyClusters]:
    """For those policies. Raises `HaloError`."""
    if settings.profile is None:
        tell(f"{name}: strict policies only; to relax takes a profile (`halo calibrate`)")
    with ExitStack() as stack:
        transports = dict.fromkeys(policy.transport for policy in used)
        yield PolicyClusters(
            {
                transport: stack.enter_context(
                    open_one_core(f"{name}-{transport.value}", settings, transport, tell)
                )
                for transport in transports
            }
        )

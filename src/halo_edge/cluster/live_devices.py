"""What a root knows of itself and of its workers, as the scheduler wants it."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from halo_edge.cluster.limits import Limits
from halo_edge.cluster.measuring import Measured
from halo_edge.cluster.messages import WorkerInfo
from halo_edge.cluster.planner import ROOT_NAME
from halo_edge.cluster.speed import DecodeTimes, RootClock
from halo_edge.plan.device import Cluster, SharedCores
from halo_edge.plan.device_profile import DeviceProfile
from halo_edge.plan.link import Link, OneWay
from halo_edge.plan.model_shape import ModelShape
from halo_edge.plan.observed import Allowance, Observed
from halo_edge.sync.ids import ROOT, DeviceId
from halo_edge.sync.peer import LinkReport

_UNKNOWN_CORES: Final = SharedCores("not known yet")
# So many are remembered of each link; there is one a second.
ROUND_TRIPS: Final = 12
ROUNDS: Final = 64
"""What is said of fewer is of no use yet."""
PROBED_ROUNDS: Final = 64
"""What a probe says of a link's losses counts for as many rounds: it is some 160 datagrams."""
_NOTHING: Final = DecodeTimes(0)
# No chunk would ever arrive of more.
_MAX_LOSS: Final = 0.99


@dataclass
class _Device:
    """`probed`: its link, before there were rounds over it, or since it has no share;
    `link_rounds`: heard of since, in all epochs. `rtts_s`: the last round trips that were measured.
    `told`: by it, of its rounds; `rounds`: heard of, in this epoch; `new`: of those, since the last
    time. `cores`: a name for those it runs on, and how many. `storage_bytes_per_s`: None: it is not
    to read weights from there."""

    observed: Observed
    probed: Link = field(default_factory=Link)
    link_rounds: int = 0
    rtts_s: deque[float] = field(default_factory=lambda: deque(maxlen=ROUND_TRIPS))
    told: DecodeTimes = _NOTHING
    storage_bytes_per_s: float | None = None
    cores: SharedCores = _UNKNOWN_CORES
    rounds: int = 0
    new: int = 0


class LiveDevices:
    """Of one session, by their numbers."""

    def __init__(self, shape: ModelShape, benchmark: DeviceProfile, threads: int) -> None:
        """`benchmark`, `threads`: the root's."""
        self.own_benchmark = benchmark
        self._shape = shape
        self._threads = threads
        self._devices = {ROOT: _Device(Observed(ROOT_NAME, benchmark, shape))}
        self._between = 0  # rounds of which the root's own clock told

    def add(self, device: DeviceId, name: str, measured: Measured) -> None:
        """A worker that joins, perhaps again."""
        observed = Observed(name, measured.benchmark, self._shape)
        self._devices[device] = _Device(observed, storage_bytes_per_s=measured.storage_bytes_per_s)
        self.probed(device, measured.link)

    def probed(self, device: DeviceId, link: Link) -> None:
        """What was found out of a link over which there are no rounds at present."""
        known = self._devices[device]
        known.probed, known.link_rounds = link, 0
        known.observed.link = link
        self.round_trip(device, link.up.delay_s + link.down.delay_s)

    def round_trip(self, device: DeviceId, rtt_s: float) -> None:
        """One that was measured. The shortest of the last is the link's own: all else is waiting,
        for processors or the datagrams of rounds."""
        known = self._devices[device]
        known.rtts_s.append(rtt_s)
        known.observed.link = _with_rtt(known.observed.link, _rtt_s(known))

    def __contains__(self, device: DeviceId) -> bool:
        return device in self._devices

    def root(self, limits: Limits, times: DecodeTimes, between: RootClock) -> None:
        """What the root has found out about itself."""
        own = self._devices[ROOT]
        self._heard(own, times)
        new = max(0, between.rounds - self._between)
        own.observed.root(between.layer_s, between.step_s, new)
        self._between = between.rounds
        own.told = replace(times, round_cpu_s=between.round_s)
        own.cores = _cores(limits.machine, limits.cores)
        own.observed.allowance = Allowance(
            _quota(limits.cpu_quota, self._threads), limits.memory_bytes
        )

    def worker(self, device: DeviceId, info: WorkerInfo, report: LinkReport | None) -> None:
        """What one says of itself, and how its link is, if there are rounds."""
        known = self._devices[device]
        told = info.decode
        known.told = DecodeTimes(
            told.neurons, told.rounds, told.cpu_s, told.wall_s, told.round_cpu_s
        )
        self._heard(known, known.told)
        known.cores = _cores(info.machine, tuple(info.cores))
        known.observed.allowance = Allowance(
            _quota(info.cpu_quota, info.threads), info.memory_bytes, known.storage_bytes_per_s
        )
        known.link_rounds += known.new
        if report is not None:
            weight = known.link_rounds / (known.link_rounds + PROBED_ROUNDS)
            known.observed.link = _link(known.observed.link, known.probed, report, weight)
            if report.fastest_s is not None and known.told.rounds >= ROUNDS:
                # An answer takes the link's round trip and the worker's round, and more as a rule.
                most_s = max(0.0, report.fastest_s - known.told.round_cpu_s)
                known.observed.link = _with_rtt(known.observed.link, min(_rtt_s(known), most_s))

    def compare(self, workers: Sequence[DeviceId], expected_s: Sequence[float]) -> None:
        """What a round of the plan in use was expected to take the root and each of these, in CPU
        time beside the FFN, with what it takes them."""
        for number, seconds in zip((ROOT, *workers), expected_s, strict=True):
            known = self._devices[number]
            told = known.told
            if told.rounds >= ROUNDS and known.new:
                known.observed.protocol(told.round_cpu_s - told.cpu_s, seconds, known.new)

    def cluster(self, workers: Sequence[DeviceId]) -> Cluster:
        """The root and these."""
        chosen = [self._devices[device] for device in (ROOT, *workers)]
        on = Counter(device.cores for device in chosen)
        devices = []
        for each in chosen:
            shared = each.cores if on[each.cores] > 1 else None
            each.observed.allowance = replace(each.observed.allowance, cores=shared)
            devices.append(each.observed.device())
        return Cluster(tuple(devices))

    def _heard(self, device: _Device, times: DecodeTimes) -> None:
        """An epoch begins with no rounds."""
        new = times.rounds - device.rounds if times.rounds >= device.rounds else times.rounds
        device.rounds, device.new = times.rounds, new
        device.observed.ffn(times.neurons, times.cpu_s, times.wall_s, new)


def _cores(machine: str, cores: Sequence[int]) -> SharedCores:
    return SharedCores(f"{machine}: {','.join(map(str, cores))}", max(1, len(cores)))


def _quota(cores: float | None, threads: int) -> float:
    return 1.0 if cores is None else min(1.0, max(cores / threads, 1e-3))


def _rtt_s(known: _Device) -> float:
    return min(known.rtts_s)


def _with_rtt(link: Link, rtt_s: float) -> Link:
    return Link(replace(link.up, delay_s=rtt_s / 2), replace(link.down, delay_s=rtt_s / 2))


def _link(known: Link, probed: Link, report: LinkReport, weight: float) -> Link:
    """`known`, with the losses that rounds see, as far as they are to be believed, 0 ... 1."""

    def way(before: OneWay, prior: OneWay, loss: float, again: float) -> OneWay:
        loss = min(prior.loss + weight * (loss - prior.loss), _MAX_LOSS)
        again = prior.lost_again + weight * (again - prior.lost_again)
        return replace(before, loss=loss, again=min(max(loss, again), 1.0))

    return Link(
        up=way(known.up, probed.up, report.loss_from, report.again_from),
        down=way(known.down, probed.down, report.loss_to, report.again_to),
    )

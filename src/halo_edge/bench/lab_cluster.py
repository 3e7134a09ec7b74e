"""A cluster in the lab with a root that decodes on request: what the lab's experiments share.

Weights are loaded and shards sent once, over links as they are declared. Then each measurement
begins with a fresh prompt over those links, so that no configuration inherits a transport in
trouble from the one before; only its own tokens meet its own links.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from halo_edge.bench.decoding import CONTEXT, Decoding
from halo_edge.bench.experiment import Tell
from halo_edge.bench.probe_client import Probe
from halo_edge.bench.probe_messages import Decode, Decoded, Done, Prepare, ProbeStart, Times, Traced
from halo_edge.cluster.messages import Transport
from halo_edge.cluster.trace_summary import TokenTime
from halo_edge.errors import HaloError
from halo_edge.lab.fabric import DeviceCounters
from halo_edge.lab.lab import Lab
from halo_edge.lab.link import LinkSettings
from halo_edge.lab.spec import DeviceSpec, Event, LabSpec

ROOT: Final = "n0"
# A token's end is awaited for so long after the time is up, before the links are made good again.
GRACE_S: Final = 1.0
# TCP tries again only after a pause as long as all its pauses before, up to 120 s.
SETTLE_S: Final = 150.0
PREPARE_TIMEOUT_S: Final = 180.0
TRACE_TIMEOUT_S: Final = 120.0


@dataclass(frozen=True)
class Links:
    """How the workers' links are during a measurement, each way, and what happens meanwhile.

    `Event.at_s` counts from its first token."""

    settings: LinkSettings
    events: tuple[Event, ...] = ()


@dataclass(frozen=True)
class LabSample:
    """`offered`, `lost`: packets of the workers' links, while it was measured, both ways.
    `events_s`: when each event happened, seconds after `begun`, the moment decode began."""

    decoding: Decoding
    offered: int = 0
    lost: int = 0
    events_s: tuple[float, ...] = ()

    @property
    def realised_loss(self) -> float:
        return self.lost / self.offered if self.offered else 0.0

    def __str__(self) -> str:
        return f"{self.decoding}, {self.realised_loss * 100:.2f} % of {self.offered} packets lost"


def lab_spec(
    name: str,
    devices: int,
    *,
    link: LinkSettings,
    speed: float | None = None,
    cores: tuple[int, ...] = (),
) -> LabSpec:
    """So many equal devices. `link` is that of each worker, both ways; the root's is clean."""
    root = DeviceSpec(ROOT, speed=speed, cores=cores)
    workers = (replace(root, name=f"n{i}", up=link, down=link) for i in range(1, devices))
    return LabSpec(name, (root, *workers), seed=1)


class LabCluster:
    """A lab, its workers, and a probe on its root. `open_lab_cluster` makes one."""

    def __init__(self, lab: Lab, probe: Probe) -> None:
        self._lab = lab
        self._probe = probe
        self._workers = [device.name for device in lab.spec.workers]
        self._declared = dict(lab.links)

    @property
    def rounds(self) -> int:
        """Of each token."""
        return self._probe.rounds

    def measure(self, links: Links | None, tokens: int, limit_s: float) -> LabSample:
        """Decode so many tokens over these links (None: as declared), or as many as come in time.

        Raises `HaloError` when the cluster fails.
        """
        lab, probe = self._lab, self._probe
        lab.check()
        probe.ask(Prepare(), Done, PREPARE_TIMEOUT_S)
        before = lab.counters()
        try:
            if links is not None:
                for worker in self._workers:
                    lab.set_link(worker, links.settings, links.settings)
            begun = time.monotonic()
            probe.send(Decode(tokens, limit_s))
            decoded, happened = self._happen(links.events if links is not None else (), begun)
            if decoded is None:
                left_s = begun + limit_s + GRACE_S - time.monotonic()
                decoded = probe.receive(Decoded, max(0.0, left_s))
            after = lab.counters()
        finally:
            self._mend()
        if decoded is None:
            decoded = probe.receive(Decoded, SETTLE_S)
        if decoded is None:
            raise HaloError(
                f"the cluster in the lab did not recover in {SETTLE_S:.0f} s over good links"
            )
        offered, lost = _difference(after, before, self._workers)
        events_s = tuple(at_s - decoded.begun_s for at_s in happened)
        return LabSample(decoded.decoding, offered, lost, events_s)

    def token_times(self) -> list[TokenTime]:
        """Of all tokens so far, if the probe records. Raises `HaloError`."""
        return self._probe.ask(Traced(), Times, TRACE_TIMEOUT_S).tokens

    def warnings(self) -> list[str]:
        return [f"lab {self._lab.spec.name}: {line}" for line in self._lab.warnings()]

    def _happen(self, events: Sequence[Event], begun: float) -> tuple[Decoded | None, list[float]]:
        """Let the events happen until the reply comes; it, and when they happened."""
        happened: list[float] = []
        for event in events:
            left_s = begun + event.at_s - time.monotonic()
            decoded = self._probe.receive(Decoded, max(0.0, left_s))
            if decoded is not None:
                return decoded, happened
            self._lab.act(event)
            happened.append(time.monotonic())
        return None, happened

    def _mend(self) -> None:
        for worker in self._workers:
            self._lab.set_link(worker, *self._declared[worker])


@contextmanager
def open_lab_cluster(
    spec: LabSpec,
    model: Path,
    transport: Transport,
    tell: Tell,
    *,
    stall_timeout_s: float,
    trace: bool = False,
) -> Iterator[LabCluster]:
    """Build the lab, start its workers, and open a session from its root.

    Raises `HaloError` where no lab is possible.
    """
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="halo-bench-")))
        lab = stack.enter_context(Lab(spec, tell))
        lab.start_workers()
        start = ProbeStart(
            model=str(model.resolve()),
            transport=transport,
            context=CONTEXT,
            stall_timeout_s=stall_timeout_s,
            trace=trace,
        )

        def spawn(command: Sequence[str], **popen: Any) -> Any:
            return lab.spawn(spec.root.name, command, env=lab.environment(), **popen)

        probe = Probe(spawn, start, directory / "probe.log")
        stack.callback(probe.close)
        yield LabCluster(lab, probe)


def _difference(
    after: dict[str, DeviceCounters], before: dict[str, DeviceCounters], workers: Sequence[str]
) -> tuple[int, int]:
    """Packets that chance was asked about, and those it took."""
    offered = lost = 0
    for worker in workers:
        for end, begin in (
            (after[worker].up, before[worker].up),
            (after[worker].down, before[worker].down),
        ):
            asked = end.offered - end.overflowed - end.cut
            offered += asked - (begin.offered - begin.overflowed - begin.cut)
            lost += end.lost - begin.lost
    return offered, lost

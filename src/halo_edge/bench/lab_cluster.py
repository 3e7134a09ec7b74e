"""A cluster in the lab with a root that works on request: what the lab's experiments share.

Weights are loaded and shards sent once, over links as they are declared. Then each measurement
begins with a fresh prompt over those links, so that no configuration inherits a transport in
trouble from the one before; only its own tokens meet its own links.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Generic

from halo_edge.bench.decoding import CONTEXT, Decoding
from halo_edge.bench.experiment import Tell
from halo_edge.bench.probe_client import Probe, ReplyT
from halo_edge.bench.probe_messages import (
    Decode,
    Decoded,
    Done,
    Prepare,
    ProbeStart,
    Relax,
    Score,
    Scored,
    Times,
    Traced,
)
from halo_edge.cluster.messages import Transport
from halo_edge.cluster.relaxation import RelaxOptions, Spent
from halo_edge.cluster.scheduling import Outlook
from halo_edge.cluster.trace_summary import TokenTime
from halo_edge.errors import HaloError
from halo_edge.groups.placement import Placement
from halo_edge.lab.fabric import DeviceCounters
from halo_edge.lab.lab import DeviceUsage, Lab
from halo_edge.lab.link import LinkSettings
from halo_edge.lab.spec import Action, DeviceSpec, Event, LabSpec

ROOT: Final = "n0"
# Longer than any measurement: a stall is to be measured, not to end the run.
STALL_TIMEOUT_S: Final = 600.0
# A token's end is awaited for so long after the time is up, before the links are made good again.
GRACE_S: Final = 1.0
# TCP tries again only after a pause as long as all its pauses before, up to 120 s.
SETTLE_S: Final = 150.0
PREPARE_TIMEOUT_S: Final = 180.0
# Longer than the probe waits for the workers' fills.
RELAX_TIMEOUT_S: Final = 300.0
# Of one token that is scored; prefill takes less.
MAX_TOKEN_S: Final = 5.0
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
    `events_s`: when each event happened, seconds after the moment decode began. `spent`: in
    `tokens` tokens, those before the gaps included. `shares`, `begins`, `outlook`: see
    `Decoded`."""

    decoding: Decoding
    offered: int = 0
    lost: int = 0
    events_s: tuple[float, ...] = ()
    spent: Spent = field(default_factory=Spent)
    tokens: int = 1
    shares: tuple[int, ...] = ()
    begins: tuple[int, ...] = ()
    outlook: Outlook | None = None

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

    def relax(self, options: RelaxOptions) -> None:
        """From now on. Raises `HaloError` for what cannot be, as without a profile."""
        self._probe.ask(Relax(options), Done, RELAX_TIMEOUT_S)

    def measure(
        self, links: Links | None, tokens: int, limit_s: float, settle: int = 0
    ) -> LabSample:
        """Decode so many tokens over these links (None: as declared), or as many as come in time;
        before those that count, `settle` others, in which timers and estimates learn the links.

        Raises `HaloError` when the cluster fails.
        """
        self.prepare()
        return self.decode(links, tokens, limit_s, settle)

    def prepare(self, follow: tuple[int, ...] = ()) -> None:
        """Begin with a fresh prompt, and go on with `follow` (`Decoder.prepare`). Raises
        `HaloError` when the cluster fails."""
        self._lab.check()
        self._probe.ask(Prepare(follow), Done, PREPARE_TIMEOUT_S)

    def decode(
        self, links: Links | None, tokens: int, limit_s: float, settle: int = 0
    ) -> LabSample:
        """As `measure`, going on where it was."""
        request = Decode(tokens, limit_s, settle)
        met = self._meet(links, request, Decoded, limit_s + GRACE_S)
        decoded = met.reply
        if decoded is None:
            decoded = self._probe.receive(Decoded, SETTLE_S)
        if decoded is None:
            raise HaloError(
                f"the cluster in the lab did not recover in {SETTLE_S:.0f} s over good links"
            )
        return LabSample(
            decoded.decoding,
            met.offered,
            met.lost,
            tuple(at_s - decoded.begun_s for at_s in met.happened),
            decoded.spent,
            settle + max(1, len(decoded.decoding.gaps_ms)),
            tuple(decoded.shares),
            tuple(decoded.begins),
            decoded.outlook,
        )

    def score(self, links: Links | None, request: Score) -> Scored:
        """Score a text over these links (None: as declared).

        Raises `HaloError` when the cluster fails.
        """
        self._lab.check()
        limit_s = request.windows * request.context * MAX_TOKEN_S
        met = self._meet(links, request, Scored, limit_s)
        if met.reply is None:
            raise HaloError(f"scoring took longer than {limit_s:.0f} s; the links are too bad")
        return met.reply

    def token_times(self) -> list[TokenTime]:
        """Of all tokens so far, if the probe records. Raises `HaloError`."""
        return self._probe.ask(Traced(), Times, TRACE_TIMEOUT_S).tokens

    def usage(self, device: str) -> DeviceUsage:
        """See `Lab.usage`."""
        return self._lab.usage(device)

    def warnings(self) -> list[str]:
        return [f"lab {self._lab.spec.name}: {line}" for line in self._lab.warnings()]

    def _meet(
        self, links: Links | None, request: Decode | Score, kind: type[ReplyT], limit_s: float
    ) -> _Met[ReplyT]:
        """Let the probe work over these links for so long. Afterwards all is as declared."""
        lab, probe = self._lab, self._probe
        events = links.events if links is not None else ()
        before = lab.counters()
        try:
            if links is not None:
                for worker in self._workers:
                    lab.set_link(worker, links.settings, links.settings)
            begun = time.monotonic()
            probe.send(request)
            reply, happened = self._happen(events, kind, begun)
            for event in events[len(happened) :]:
                if event.action is Action.RESTART:  # nobody stays killed
                    lab.act(event)
            if reply is None:
                left_s = begun + limit_s - time.monotonic()
                reply = probe.receive(kind, max(0.0, left_s))
            after = lab.counters()
        finally:
            self._mend(events)
        offered, lost = _difference(after, before, self._workers)
        return _Met(reply, happened, offered, lost)

    def _happen(
        self, events: Sequence[Event], kind: type[ReplyT], begun: float
    ) -> tuple[ReplyT | None, list[float]]:
        """Let the events happen until the reply comes; it, and when they happened."""
        happened: list[float] = []
        for event in events:
            left_s = begun + event.at_s - time.monotonic()
            reply = self._probe.receive(kind, max(0.0, left_s))
            if reply is not None:
                return reply, happened
            self._lab.act(event)
            happened.append(time.monotonic())
        return None, happened

    def _mend(self, events: Sequence[Event]) -> None:
        for worker in self._workers:
            self._lab.set_link(worker, *self._declared[worker])
        for worker in dict.fromkeys(e.device for e in events if e.action is Action.STOP):
            self._lab.act(Event(0, Action.CONTINUE, worker))


@dataclass(frozen=True)
class _Met(Generic[ReplyT]):
    """`reply`: None if it did not come in time. `happened`: when events did, monotonic clock."""

    reply: ReplyT | None
    happened: list[float]
    offered: int
    lost: int


@contextmanager
def open_lab_cluster(
    spec: LabSpec,
    model: Path,
    tell: Tell,
    *,
    transport: Transport = Transport.UDP,
    scheduled: bool = False,
    memory_bytes: int | None = None,
    trace: bool = False,
    profile: Path | None = None,
    placement: Placement = Placement.CRITICAL,
) -> Iterator[LabCluster]:
    """Build the lab, start its workers, and open a session from its root, which is planned to use
    `memory_bytes` (None: what the lab gives it).

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
            stall_timeout_s=STALL_TIMEOUT_S,
            directory=str(directory),
            profile=None if profile is None else str(profile.resolve()),
            placement=placement,
            scheduled=scheduled,
            memory_bytes=memory_bytes,
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

"""Which model is computed, by whom, and how: the options of the commands that open a session.

Where a model's file and its profile are is not known here.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

from typer import Option

from halo_edge.cli.options import (
    CLUSTER_PANEL,
    ClusterName,
    Connect,
    ControlConfig,
    Model,
    Threads,
    control_options,
)
from halo_edge.cli.relax_options import RelaxingOptions
from halo_edge.cluster.links import RootLink
from halo_edge.cluster.messages import Transport
from halo_edge.cluster.relaxation import RelaxOptions
from halo_edge.cluster.rounds_options import DEFAULT_STALL_TIMEOUT_S, RoundsOptions
from halo_edge.cluster.session import SessionOptions
from halo_edge.compute.requantise import DownType
from halo_edge.compute.wire import Wire
from halo_edge.engine.trace import Recorder, Tracer
from halo_edge.errors import HaloError
from halo_edge.groups.profile import Profile
from halo_edge.lab.impairment import ImpairedLink, parse_impairment
from halo_edge.plan.replicas import MAX_REPLICAS

DEFAULT_WORKERS: Final = 3


@dataclass(frozen=True, kw_only=True)
class ComputeOptions(RelaxingOptions):
    """Which model, and who computes it."""

    model: Model = None
    threads: Threads = None
    workers: Annotated[
        int | None,
        Option(
            "--workers",
            "-w",
            min=0,
            max=255,
            envvar="HALO_WORKERS",
            rich_help_panel=CLUSTER_PANEL,
            help="Workers to start on this machine (default 3). With --cluster or --connect: "
            "workers to wait for (default: all found). 0: compute everything in one process.",
        ),
    ] = None
    cluster: ClusterName = None
    connect: Connect = None
    control_config: ControlConfig = None
    split: Annotated[
        str | None,
        Option(
            "--split",
            rich_help_panel=CLUSTER_PANEL,
            metavar="R,W1,W2,...",
            help="Relative shares of the FFN, the root's first, rounded to whole neuron groups. "
            "Default: equal.",
        ),
    ] = None
    replicas: Annotated[
        str,
        Option(
            "--replicas",
            rich_help_panel=CLUSTER_PANEL,
            metavar="auto|off|N",
            help="How many other workers (0 to 2) hold each worker's neurons, too, loaded in the "
            "background into memory known to be spare, so that they go on at once with the "
            "work of one that is gone; where memory is short, the most important neurons first. "
            "auto: 1, unless --split says who does what or all run on this machine.",
        ),
    ] = "auto"
    memory_mb: Annotated[
        float | None,
        Option(
            "--memory",
            rich_help_panel=CLUSTER_PANEL,
            metavar="MB",
            min=1,
            help="Memory that this process is planned to use, with all that only it holds: "
            "attention, embedding, the KV cache. What is left of it goes into neurons to compute, "
            "where the work is planned, and into copies of others'. Default: what there is.",
        ),
    ] = None
    profile: Annotated[
        str | None,
        Option(
            "--profile",
            rich_help_panel=CLUSTER_PANEL,
            metavar="FILE",
            help="The model's profile, by `halo calibrate`, or 'none'. Default: the one that is "
            "found for this model.",
        ),
    ] = None
    down_type: Annotated[
        DownType,
        Option(
            "--down-type",
            rich_help_panel=CLUSTER_PANEL,
            help="With a profile: what ffn_down is requantised to, q8_0 or the type it has.",
        ),
    ] = DownType.Q8_0
    wire: Annotated[
        Wire,
        Option(
            "--wire",
            rich_help_panel=CLUSTER_PANEL,
            help="Number format of vectors on the wire; mixed: x as q8_0, partials as f16.",
        ),
    ] = Wire.MIXED
    transport: Annotated[
        Transport,
        Option(
            "--transport",
            rich_help_panel=CLUSTER_PANEL,
            help="What carries the rounds; tcp is there for comparison.",
        ),
    ] = Transport.UDP
    impair: Annotated[
        str | None,
        Option(
            "--impair",
            rich_help_panel=CLUSTER_PANEL,
            metavar="loss=P,delay_ms=D,...",
            help="Make the root's link bad, each way: loss, delay_ms, jitter_ms, rate_mbit, "
            "burst=GOOD_MS/BAD_MS, reorder, duplicate, corrupt, seed.",
        ),
    ] = None
    stall_timeout: Annotated[
        float,
        Option(
            "--stall-timeout",
            min=0.1,
            rich_help_panel=CLUSTER_PANEL,
            help="How long a worker that never answered yet is waited for, in seconds.",
        ),
    ] = DEFAULT_STALL_TIMEOUT_S
    trace: Annotated[
        Path | None,
        Option(
            "--trace",
            rich_help_panel=CLUSTER_PANEL,
            metavar="FILE",
            help="Write where the time went on root and workers, to be opened at "
            "https://ui.perfetto.dev.",
        ),
    ] = None

    @property
    def several_devices(self) -> bool:
        """Whether anybody but this process computes."""
        return self.workers != 0

    def session(self, model: Path, context: int | None, profile: Profile | None) -> SessionOptions:
        """What they mean for the model in the file `model`, which has that profile or none.

        Raises `HaloError`.
        """
        relax = RelaxOptions()
        if self.several_devices:
            relax = self.relax_options(has_profile=profile is not None)
        rounds = RoundsOptions(
            wire=self.wire,
            transport=self.transport,
            split=_shares(self.split),
            wrap_link=_impairment(self.impair, self.transport),
            stall_timeout_s=self.stall_timeout,
            profile=profile,
            down=self.down_type,
            relax=relax,
            replicas=_replicas(self.replicas),
            memory_bytes=None if self.memory_mb is None else int(self.memory_mb * 1e6),
        )
        tracer = Recorder() if self.trace is not None else Tracer()
        cores = os.cpu_count() or 1
        if self.several_devices and (self.cluster or self.connect or self.control_config):
            control = control_options(self.cluster, self.connect, self.control_config)
            threads = self.threads or cores
            return SessionOptions(model, threads, context, self.workers, control, rounds, tracer)
        workers = DEFAULT_WORKERS if self.workers is None else self.workers
        threads = self.threads or max(1, cores // (workers + 1))
        return SessionOptions(model, threads, context, workers, None, rounds, tracer)


def _impairment(text: str | None, transport: Transport) -> Callable[[RootLink], RootLink] | None:
    if text is None:
        return None
    if transport is Transport.TCP:
        raise HaloError(
            "--impair drops datagrams, and TCP has none; use --transport udp, or `halo lab`"
        )
    settings, seed = parse_impairment(text)
    return lambda link: ImpairedLink(link, settings, seed)


def _replicas(text: str) -> int | None:
    """None: as many as seem right."""
    if text == "auto":
        return None
    known = {"off": 0, **{str(n): n for n in range(MAX_REPLICAS + 1)}}
    if text not in known:
        raise HaloError(f"--replicas is auto, off, or 0 to {MAX_REPLICAS}; not {text!r}")
    return known[text]


def _shares(text: str | None) -> list[float] | None:
    if text is None:
        return None
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise HaloError(f"--split needs numbers with commas between, not {text!r}") from None

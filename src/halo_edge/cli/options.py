"""The options that several commands share."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

from typer import Option

from halo_edge.cli.relax_options import RelaxingOptions
from halo_edge.cluster.control import DEFAULT_CLUSTER, ControlOptions
from halo_edge.cluster.links import RootLink
from halo_edge.cluster.messages import Transport
from halo_edge.cluster.relaxation import RelaxOptions
from halo_edge.cluster.root import DEFAULT_STALL_TIMEOUT_S, RoundsOptions
from halo_edge.cluster.session import SessionOptions
from halo_edge.compute.requantise import DownType
from halo_edge.compute.wire import Wire
from halo_edge.engine.sampling import SamplingParams
from halo_edge.engine.trace import Recorder, Tracer
from halo_edge.errors import HaloError
from halo_edge.groups.profile import Profile
from halo_edge.lab.impairment import ImpairedLink, parse_impairment
from halo_edge.plan.replicas import MAX_REPLICAS

DEFAULT_WORKERS: Final = 3
_MODEL: Final = "Model"
_CLUSTER: Final = "Cluster"
_SAMPLING: Final = "Sampling"
_DEFAULTS: Final = SamplingParams()

Json = Annotated[bool, Option("--json", help="Print one JSON object instead of text.")]
Model = Annotated[
    str | None,
    Option(
        "--model",
        "-m",
        rich_help_panel=_MODEL,
        help="A GGUF file, 'smollm2', or 'hf:owner/repo/file.gguf'. Default: smollm2, which is "
        "fetched when it is not there yet.",
    ),
]
Context = Annotated[
    int | None,
    Option(
        "--ctx",
        rich_help_panel=_MODEL,
        help="Tokens that prompt and answer may have together. Default: what the model was "
        "trained on, at most 8192.",
    ),
]
Threads = Annotated[
    int | None,
    Option(
        "--threads",
        "-t",
        min=1,
        envvar="HALO_THREADS",
        rich_help_panel=_MODEL,
        help="Compute threads of each process. Default: this machine's cores, shared out evenly.",
    ),
]
ClusterName = Annotated[
    str | None,
    Option(
        "--cluster",
        envvar="HALO_CLUSTER",
        rich_help_panel=_CLUSTER,
        help="Use the workers of this cluster, found on the local network by multicast.",
    ),
]
Connect = Annotated[
    list[str] | None,
    Option(
        "--connect",
        envvar="HALO_CONNECT",
        rich_help_panel=_CLUSTER,
        metavar="ENDPOINT",
        help="Reach the others through this endpoint, e.g. tcp/192.168.1.5:7447. Repeatable; "
        "switches multicast off.",
    ),
]
ControlConfig = Annotated[
    Path | None,
    Option(
        "--control-config",
        rich_help_panel=_CLUSTER,
        exists=True,
        dir_okay=False,
        help="A Zenoh configuration file for the control plane (TLS, access control).",
    ),
]


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
            rich_help_panel=_CLUSTER,
            help="Workers to start on this machine (default 3; 0: compute everything in one "
            "process). With --cluster or --connect: workers to wait for (default: all found).",
        ),
    ] = None
    cluster: ClusterName = None
    connect: Connect = None
    control_config: ControlConfig = None
    split: Annotated[
        str | None,
        Option(
            "--split",
            rich_help_panel=_CLUSTER,
            metavar="R,W1,W2,...",
            help="Relative shares of the FFN, the root's first, rounded to whole neuron groups. "
            "Default: equal.",
        ),
    ] = None
    replicas: Annotated[
        str,
        Option(
            "--replicas",
            rich_help_panel=_CLUSTER,
            metavar="auto|off|N",
            help="How many other workers (0 to 2) hold each worker's neurons, too, loaded in the "
            "background into memory known to be spare, so that they go on at once with the "
            "work of one that is gone; where memory is short, the most important neurons first. "
            "auto: 1, unless --split says who does what or all run on this machine.",
        ),
    ] = "auto"
    profile: Annotated[
        str | None,
        Option(
            "--profile",
            rich_help_panel=_CLUSTER,
            metavar="FILE",
            help="The model's profile, by `halo calibrate`, or 'none'. Default: the one that is "
            "found for this model.",
        ),
    ] = None
    down_type: Annotated[
        DownType,
        Option(
            "--down-type",
            rich_help_panel=_CLUSTER,
            help="With a profile: what ffn_down is requantised to, q8_0 or the type it has.",
        ),
    ] = DownType.Q8_0
    wire: Annotated[
        Wire,
        Option(
            "--wire",
            rich_help_panel=_CLUSTER,
            help="Number format of vectors on the wire; mixed: x as q8_0, partials as f16.",
        ),
    ] = Wire.MIXED
    transport: Annotated[
        Transport,
        Option(
            "--transport",
            rich_help_panel=_CLUSTER,
            help="What carries the rounds; tcp is there for comparison.",
        ),
    ] = Transport.UDP
    impair: Annotated[
        str | None,
        Option(
            "--impair",
            rich_help_panel=_CLUSTER,
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
            rich_help_panel=_CLUSTER,
            help="How long a worker that never answered yet is waited for, in seconds.",
        ),
    ] = DEFAULT_STALL_TIMEOUT_S
    trace: Annotated[
        Path | None,
        Option(
            "--trace",
            rich_help_panel=_CLUSTER,
            metavar="FILE",
            help="Write where the time went on root and workers, to be opened at "
            "https://ui.perfetto.dev.",
        ),
    ] = None

    @property
    def several_devices(self) -> bool:
        """Whether anybody but this process computes."""
        return self.workers != 0 or bool(self.cluster or self.connect or self.control_config)

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
        )
        tracer = Recorder() if self.trace is not None else Tracer()
        cores = os.cpu_count() or 1
        if self.cluster or self.connect or self.control_config:
            control = control_options(self.cluster, self.connect, self.control_config)
            threads = self.threads or cores
            return SessionOptions(model, threads, context, self.workers, control, rounds, tracer)
        workers = DEFAULT_WORKERS if self.workers is None else self.workers
        threads = self.threads or max(1, cores // (workers + 1))
        return SessionOptions(model, threads, context, workers, None, rounds, tracer)


@dataclass(frozen=True, kw_only=True)
class SamplingOptions:
    """How tokens are chosen."""

    temperature: Annotated[
        float, Option(rich_help_panel=_SAMPLING, help="0 always takes the likeliest token.")
    ] = _DEFAULTS.temperature
    top_k: Annotated[int, Option(rich_help_panel=_SAMPLING, help="0: off.")] = _DEFAULTS.top_k
    top_p: Annotated[float, Option(rich_help_panel=_SAMPLING, help="1: off.")] = _DEFAULTS.top_p
    min_p: Annotated[float, Option(rich_help_panel=_SAMPLING, help="0: off.")] = _DEFAULTS.min_p
    repetition_penalty: Annotated[
        float, Option(rich_help_panel=_SAMPLING, help="Over the last 64 tokens; 1: off.")
    ] = _DEFAULTS.repetition_penalty
    seed: Annotated[
        int | None, Option(rich_help_panel=_SAMPLING, help="Default: another each time.")
    ] = None
    max_tokens: Annotated[
        int | None,
        Option(
            "--max-tokens", "-n", rich_help_panel=_SAMPLING, help="Default: no limit but --ctx."
        ),
    ] = None
    stop: Annotated[
        list[str] | None,
        Option(rich_help_panel=_SAMPLING, help="End the answer before this text. Repeatable."),
    ] = None
    logprobs: Annotated[
        int | None,
        Option(
            rich_help_panel=_SAMPLING,
            help="With --json: log-probabilities of the chosen and of so many likeliest tokens.",
        ),
    ] = None

    def params(self) -> SamplingParams:
        """Raises `HaloError` for values out of range."""
        return SamplingParams(
            temperature=self.temperature,
            top_k=self.top_k,
            top_p=self.top_p,
            min_p=self.min_p,
            repetition_penalty=self.repetition_penalty,
            seed=self.seed,
            max_tokens=self.max_tokens,
            stop=tuple(self.stop or ()),
            logprobs=self.logprobs,
        )


def control_options(
    cluster: str | None, connect: list[str] | None, config_file: Path | None
) -> ControlOptions:
    """The root's way to the workers of `cluster`."""
    return ControlOptions(
        cluster or DEFAULT_CLUSTER,
        connect=connect or (),
        multicast=not connect,
        config_file=config_file,
    )


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

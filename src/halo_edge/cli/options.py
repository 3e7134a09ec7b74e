"""The options that several commands share: which model, and the way to a cluster.

What a command needs besides, to compute or to sample, is in `compute_options.py` and
`sampling_options.py`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

from typer import Option

from halo_edge.cluster.control import DEFAULT_CLUSTER, ControlOptions

MODEL_PANEL: Final = "Model"
CLUSTER_PANEL: Final = "Cluster"

Json = Annotated[bool, Option("--json", help="Print one JSON object instead of text.")]
Model = Annotated[
    str | None,
    Option(
        "--model",
        "-m",
        rich_help_panel=MODEL_PANEL,
        help="A GGUF file, 'smollm2', or 'hf:owner/repo/file.gguf'. Default: smollm2, which is "
        "fetched when it is not there yet.",
    ),
]
Context = Annotated[
    int | None,
    Option(
        "--ctx",
        rich_help_panel=MODEL_PANEL,
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
        rich_help_panel=MODEL_PANEL,
        help="Compute threads of each process. Default: this machine's cores, shared out evenly.",
    ),
]
ClusterName = Annotated[
    str | None,
    Option(
        "--cluster",
        envvar="HALO_CLUSTER",
        rich_help_panel=CLUSTER_PANEL,
        help="Use the workers of this cluster, found on the local network by multicast.",
    ),
]
Connect = Annotated[
    list[str] | None,
    Option(
        "--connect",
        envvar="HALO_CONNECT",
        rich_help_panel=CLUSTER_PANEL,
        metavar="ENDPOINT",
        help="Reach the others through this endpoint, e.g. tcp/192.168.1.5:7447. Repeatable; "
        "switches multicast off.",
    ),
]
ControlConfig = Annotated[
    Path | None,
    Option(
        "--control-config",
        rich_help_panel=CLUSTER_PANEL,
        exists=True,
        dir_okay=False,
        help="A Zenoh configuration file for the control plane (TLS, access control).",
    ),
]


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

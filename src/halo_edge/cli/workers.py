"""`halo worker` and `halo devices`."""

from __future__ import annotations

import os
import platform
import socket
from typing import Annotated, Final

import msgspec
from rich.console import Console
from rich.table import Table
from typer import Option

from halo_edge import __version__
from halo_edge.cli.console import print_json
from halo_edge.cli.options import (
    ClusterName,
    Connect,
    ControlConfig,
    Json,
    Threads,
    control_options,
)
from halo_edge.cluster.control import (
    DEFAULT_CLUSTER,
    check_cluster_name,
    open_control,
)
from halo_edge.cluster.discovery import DISCOVERY_S, find_workers
from halo_edge.cluster.messages import WorkerInfo
from halo_edge.cluster.shard_cache import DEFAULT_LIMIT_BYTES
from halo_edge.cluster.worker_process import WorkerStart
from halo_edge.errors import HaloError
from halo_edge.model.cache import user_shards

MIN_MEMORY_MB: Final = 112.0
"""A worker without any weights takes nearly as much."""


def worker(
    cluster: Annotated[
        str, Option("--cluster", help="The cluster to belong to.")
    ] = DEFAULT_CLUSTER,
    name: Annotated[str, Option("--name", help="Default: the host's name and a random part.")] = "",
    address: Annotated[
        str, Option("--address", help="Receive rounds only at this address.")
    ] = "0.0.0.0",
    port: Annotated[
        int, Option("--port", min=0, max=65535, help="Port of rounds, UDP and TCP; 0: any.")
    ] = 0,
    listen: Annotated[
        list[str] | None,
        Option(
            "--listen",
            metavar="ENDPOINT",
            help="Where roots may --connect, e.g. tcp/0.0.0.0:7447. Default: any port, found by "
            "multicast.",
        ),
    ] = None,
    connect: Connect = None,
    control_config: ControlConfig = None,
    threads: Threads = None,
    memory_mb: Annotated[
        float | None,
        Option(
            "--memory",
            metavar="MB",
            min=MIN_MEMORY_MB,
            help="Memory to use at the most. What does not fit is read from disk for every token. "
            "Default: nine tenths of what there is.",
        ),
    ] = None,
    cache_limit_gb: Annotated[
        float, Option("--cache-limit-gb", min=0.0, help="Disk space for shards.")
    ] = DEFAULT_LIMIT_BYTES / (1 << 30),
) -> None:
    """Lend this machine to a cluster, until Ctrl-C."""
    check_cluster_name(cluster)
    if name:
        check_cluster_name(name)
    try:
        socket.inet_aton(address)
    except OSError:
        raise HaloError(f"--address needs an IPv4 address, not {address!r}") from None
    start = WorkerStart(
        cluster=cluster,
        listen=listen or [],
        connect=connect or [],
        multicast=not connect,
        config_file=str(control_config) if control_config is not None else None,
        name=name,
        address=address,
        port=port,
        threads=threads or os.cpu_count() or 1,
        memory_bytes=None if memory_mb is None else int(memory_mb * 1e6),
        cache=str(user_shards()),
        cache_limit_bytes=int(cache_limit_gb * (1 << 30)),
    )
    # A process of its own weight: none of the command line's imports stay in memory.
    command = start.command()
    os.execve(command[0], command, start.environment())


def devices(
    cluster: ClusterName = None,
    connect: Connect = None,
    control_config: ControlConfig = None,
    wait: Annotated[
        float, Option("--wait", min=0.1, help="Seconds to look for workers.")
    ] = DISCOVERY_S,
    json: Json = False,
) -> None:
    """List the workers that can be found."""
    options = control_options(cluster, connect, control_config)
    name, session = options.cluster, open_control(options)
    try:
        found = find_workers(session, name, expected=None, timeout_s=wait)
    finally:
        session.close()  # type: ignore[no-untyped-call]
    if json:
        rows = [_fields(worker) for worker in found]
        print_json({"cluster": name, "root": platform.node(), "workers": rows})
        return
    table = Table(title=f"cluster {name}, seen from {platform.node()} (HALO Edge {__version__})")
    for column in ("worker", "host", "rounds at", "threads", "memory", "version", "state"):
        table.add_column(column)
    for found_worker in found:
        table.add_row(*_row(found_worker))
    Console(highlight=False).print(table)


def _fields(worker: WorkerInfo) -> dict[str, object]:
    fields = msgspec.to_builtins(worker)
    return {**fields, "busy": bool(fields.pop("session"))}


def _row(worker: WorkerInfo) -> tuple[str, ...]:
    return (
        worker.worker,
        worker.host,
        "\n".join(f"{address}:{worker.port}" for address in worker.addresses),
        f"{worker.threads} of {len(worker.cores)} cores",
        "-" if worker.memory_bytes is None else f"{worker.memory_bytes / (1 << 30):.1f} GiB",
        worker.version,
        "busy" if worker.session else "free",
    )

"""Puts together what a session's scheduler needs, from its model and options."""

from __future__ import annotations

from collections.abc import Callable

import ggml
import zenoh

from halo_edge.cluster.benchmark_cache import Benchmarks
from halo_edge.cluster.holdings import Packing
from halo_edge.cluster.live_devices import LiveDevices
from halo_edge.cluster.measuring import Measuring, benchmark_task
from halo_edge.cluster.messages import WorkerInfo
from halo_edge.cluster.root_memory import RootMemory
from halo_edge.cluster.rounds_options import RoundsOptions
from halo_edge.cluster.scheduling import Scheduling
from halo_edge.compute.requantise import DownType
from halo_edge.model.cache import user_shards
from halo_edge.model.gguf_file import GgufFile
from halo_edge.plan.criticality import Criticality
from halo_edge.plan.replanning import Replanning
from halo_edge.plan.workload import Workload


def live_scheduling(
    session: zenoh.Session,
    cluster: str,
    gguf: GgufFile,
    packing: Packing,
    options: RoundsOptions,
    threads: int,
    kv_cells: int,
    ask: Callable[[str], WorkerInfo],
    memory: RootMemory,
) -> Scheduling:
    """`threads`, `kv_cells`: the root's. `ask`: see `Scheduling`. This device is measured with the
    first plan, if it has not been.

    Raises `HaloError` for a model with which it cannot be.
    """
    relax, wire = options.relax, options.wire
    requantised = packing.profile is not None and packing.down is DownType.Q8_0
    task = benchmark_task(gguf, ggml.GGML_TYPE_Q8_0 if requantised else None, wire)
    shape = packing.shape
    criticality, rank = None, 0
    if packing.profile is not None:
        criticality, rank = Criticality.of(packing.profile, relax.fill), packing.profile.rank
    workload = Workload(
        shape,
        wire,
        kl_budget=relax.kl_budget,
        criticality=criticality,
        max_copies=relax.max_copies,
        cells=kv_cells,
        replicas=1 if options.replicas is None else options.replicas,
        rank=rank,
    )

    def devices() -> LiveDevices:
        own = Benchmarks(user_shards(), threads).of(task, None)
        return LiveDevices(shape, own, threads)

    return Scheduling(devices, Replanning(workload), Measuring(session, cluster, task), ask, memory)

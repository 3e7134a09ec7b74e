"""How fast a cluster could be at best: what no plan can beat, to compare plans with."""

from __future__ import annotations

from halo_edge.plan.device import Cluster
from halo_edge.plan.timeline import Timelines
from halo_edge.plan.workload import Workload


def bound_s(cluster: Cluster, workload: Workload) -> float:
    """TPOT of all devices' working at once on the FFN with nothing but their arithmetic and the
    nearest worker's round trips: what the root does alone, plus all of the work over all of the
    speed, plus a round trip for each layer."""
    timelines, layers = Timelines(cluster, workload), workload.shape.n_layers
    root, n_groups = timelines.costs[0], workload.shape.partition.n_groups
    alone_s = root.prepare_s(1) + root.head_s() + layers * root.attention_s(1, workload.context)
    speed = sum(
        device.quota / timelines.compute_s(d, n_groups, 1)
        for d, device in enumerate(cluster.devices)
    )
    trip_s = min((way.rtt_s for way in timelines.ways[1:]), default=0.0)
    return alone_s + layers * (1 / speed + trip_s)

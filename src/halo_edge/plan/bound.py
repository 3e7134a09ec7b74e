"""How fast a cluster could be at best: what no plan can beat, to compare plans with."""

from __future__ import annotations

import math

from halo_edge.plan.device import Cluster
from halo_edge.plan.timeline import Timelines
from halo_edge.plan.workload import Workload


def bound_s(cluster: Cluster, workload: Workload) -> float:
    """TPOT of devices that work at once on the FFN with nothing but their arithmetic and round
    trips: what the root does alone, plus all of the work over all of their speed, plus a round trip
    to the farthest of them for each layer. Of the root and its nearest workers, as many as are best
    for that."""
    timelines, layers = Timelines(cluster, workload), workload.shape.n_layers
    root, n_groups = timelines.costs[0], workload.shape.partition.n_groups
    alone_s = root.prepare_s(1) + root.head_s() + layers * root.attention_s(1, workload.context)
    devices = sorted(range(len(cluster.devices)), key=lambda d: timelines.ways[d].rtt_s if d else 0)
    speed, least_s = 0.0, math.inf
    for d in devices:
        speed += cluster.devices[d].quota / timelines.compute_s(d, n_groups, 1)
        trip_s = timelines.ways[d].rtt_s if d else 0.0
        least_s = min(least_s, 1 / speed + trip_s)
    return alone_s + layers * least_s

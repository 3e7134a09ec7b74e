"""How fast a cluster could be at best: what no plan can beat, to compare plans with."""

from __future__ import annotations

from itertools import accumulate

from halo_edge.plan.device import Cluster
from halo_edge.plan.timeline import Timelines
from halo_edge.plan.workload import Workload


def bound_s(cluster: Cluster, workload: Workload) -> float:
    """TPOT of devices that work at once on the FFN with nothing but their arithmetic and their
    round trips: what the root does alone, plus all of the work over all of the speed, plus the
    longest round trip for each layer. Of the root alone, and with all that are near enough, for
    each distance there is: the least."""
    timelines, layers = Timelines(cluster, workload), workload.shape.n_layers
    root, n_groups = timelines.costs[0], workload.shape.partition.n_groups
    alone_s = root.prepare_s(1) + root.head_s() + layers * root.attention_s(1, workload.context)
    near = sorted(
        (timelines.ways[d].rtt_s if d else 0.0, device.quota / timelines.compute_s(d, n_groups, 1))
        for d, device in enumerate(cluster.devices)
    )
    speeds = accumulate(speed for _, speed in near)
    round_s = min(1 / speed + trip_s for (trip_s, _), speed in zip(near, speeds, strict=True))
    return alone_s + layers * round_s

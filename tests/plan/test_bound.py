"""No plan is predicted to beat the bound."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.plan.clusters import cluster, worker, workload

from halo_edge.plan.bound import bound_s
from halo_edge.plan.schedule import schedule
from halo_edge.plan.timeline import Timelines

WORK = workload()


@pytest.mark.parametrize(
    "made",
    [
        cluster(worker()),
        cluster(worker(), worker(rtt_ms=5), worker("pi5")),
        cluster(replace(worker(), speed=0.5), worker()),
    ],
)
def test_below_every_plan(made: object) -> None:
    assert bound_s(made, WORK) < schedule(made, WORK).prediction.tpot_s  # type: ignore[arg-type]


def test_by_hand() -> None:
    """Twice the devices have half of the FFN to do; half a device counts half."""
    alone, two = cluster(), cluster(worker(rtt_ms=0))
    layers, groups = WORK.shape.n_layers, WORK.shape.partition.n_groups
    ffn_s = layers * Timelines(alone, WORK).compute_s(0, groups, 1)
    assert bound_s(alone, WORK) - bound_s(two, WORK) == pytest.approx(ffn_s / 2)
    half = cluster(replace(worker(rtt_ms=0), speed=0.5))
    assert bound_s(alone, WORK) - bound_s(half, WORK) == pytest.approx(ffn_s / 3)
    far = cluster(worker(rtt_ms=1))
    assert bound_s(far, WORK) - bound_s(two, WORK) == pytest.approx(layers * 0.001)
    too_far = [worker(rtt_ms=200)] * 2
    named = [replace(each, name=f"far{i}") for i, each in enumerate(too_far)]
    assert bound_s(cluster(*named), WORK) == bound_s(alone, WORK)
    assert bound_s(cluster(worker(rtt_ms=1), *named), WORK) == bound_s(far, WORK)

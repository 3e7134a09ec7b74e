"""What a change would bring."""

from __future__ import annotations

from tests.plan.clusters import FOUR_LAYERS, cluster, worker, workload

from halo_edge.plan.schedule import Objective, schedule
from halo_edge.plan.what_if import what_if

WORK = workload(shape=FOUR_LAYERS)


def test_one_more_like_the_fastest() -> None:
    made = cluster(worker("pi3", rtt_ms=0.1), worker("pi5", rtt_ms=0.1))
    found = what_if(made, WORK, Objective.TPOT)
    assert found.like == "n2" and found.one_more is not None
    assert len(found.one_more.plan.shares) == 4
    assert found.one_more.prediction.tpot_s < schedule(made, WORK).prediction.tpot_s
    assert found.twice_the_rate is None  # nobody said that there is one


def test_twice_the_bandwidth() -> None:
    made = cluster(worker("pi5", rtt_ms=0.1, mbit=30), worker("pi5", rtt_ms=0.1, mbit=30))
    found = what_if(made, WORK, Objective.TPOT)
    assert found.twice_the_rate is not None
    assert found.twice_the_rate.prediction.tpot_s < schedule(made, WORK).prediction.tpot_s
    assert found.twice_the_rate.cluster.devices[1].link.up.bytes_per_s == 60e6 / 8


def test_of_a_root_alone_there_is_nothing_to_have_more_of() -> None:
    found = what_if(cluster(), WORK, Objective.TPOT)
    assert (found.like, found.one_more, found.twice_the_rate) == (None, None, None)

"""One epoch after another: rounds stay right, and what is known of the links stays known."""

from __future__ import annotations

import pytest
from tests.sync.network import Cluster, Link, layout

from halo_edge.sync.ids import RoundId
from halo_edge.sync.timing import Recovery

LAYOUT = layout(row_bytes=408, max_tokens=16, window=8)
ROUNDS = 200


@pytest.mark.parametrize("seed", range(5))
def test_rounds_go_on_and_links_are_remembered(seed: int) -> None:
    link, recovery = Link(loss=0.1, delay_s=0.001), Recovery(max_copies=3)
    cluster = Cluster(LAYOUT, 3, link, seed=seed, recovery=recovery)
    for step in range(ROUNDS):
        cluster.run(RoundId(step, 0), 1)
    before = {device: cluster.root.link(device) for device in cluster.devices}
    cluster.begin_epoch()
    for device, known in before.items():
        found = cluster.root.link(device)
        assert known.srtt_s is not None
        assert (found.srtt_s, found.loss_from) == (known.srtt_s, known.loss_from)
        assert found.loss_to == known.loss_to > 0
        assert found.answer_s is None  # it may have another share
    for step in range(ROUNDS, 2 * ROUNDS):
        cluster.run(RoundId(step, 0), 1)
    assert cluster.root.statistics.rounds == 2 * ROUNDS
    for device in cluster.devices:
        found = cluster.root.link(device)
        assert 0.03 < found.loss_from < 0.3
        assert 0.03 < found.loss_to < 0.3


def test_what_was_under_way_is_refused() -> None:
    cluster = Cluster(LAYOUT, 2, Link(delay_s=0.05), recovery=Recovery())
    cluster.run(RoundId(0, 0), 1)
    cluster.run(RoundId(1, 0), 1)
    cluster.root.begin(RoundId(2, 0), 1, bytes(LAYOUT.x_row_bytes), cluster.now)
    late = cluster.root.datagrams(cluster.now)
    cluster.begin_epoch()
    for destinations, datagram in late:
        for device in destinations:
            cluster.workers[device].receive(datagram, cluster.now)
    assert all(
        w.statistics.wrong_epoch and not w.statistics.rounds for w in cluster.workers.values()
    )
    cluster.run(RoundId(2, 0), 1)

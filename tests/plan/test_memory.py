"""What fits, and what stays."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.plan.clusters import cluster, worker, workload

from halo_edge.groups.learning import BLOCK_ROWS
from halo_edge.groups.sketch import EXTENSION
from halo_edge.plan.device import PROCESS_BYTES
from halo_edge.plan.memory import (
    bytes_at_root,
    bytes_for,
    capacities,
    groups_at_root,
    groups_in,
    residents,
    streamable,
)

WORK = workload()


def test_capacities() -> None:
    group = WORK.shape.group_bytes
    tight = replace(worker(), memory_bytes=int(PROCESS_BYTES + 10.5 * group))
    none = replace(worker(), memory_bytes=1)
    assert capacities(cluster(tight, worker(), none), WORK) == [88, 10, 88, 0]


def test_the_root_needs_more() -> None:
    bytes_ = int(PROCESS_BYTES + 80 * WORK.shape.group_bytes)
    small = replace(cluster(worker()).root, memory_bytes=bytes_)
    both = cluster(replace(worker(), memory_bytes=bytes_), root=small)
    root, other = capacities(both, WORK)
    assert 0 < root < other == 80
    longer = capacities(both, workload(prompt=2000))[0]
    assert longer < root  # of its KV cache
    assert capacities(both, workload(cells=2032))[0] == longer


def test_what_going_on_without_chunks_takes() -> None:
    """A fill of every worker as it came, and as it is improved, twice; and rows to learn from."""
    shape, known = WORK.shape, workload(rank=16)
    alone, one, two = (bytes_at_root(0, known, workers) for workers in range(3))
    fill = 17 * 2 + (16 + EXTENSION + 1) * 4
    assert two - one == one - alone
    assert one - alone == shape.n_layers * shape.hidden * (2 * fill + BLOCK_ROWS * 4)
    assert bytes_at_root(0, WORK, 2) == bytes_at_root(0, WORK) < alone
    root = replace(cluster().root, memory_bytes=int(bytes_at_root(10, known, 2)))
    assert capacities(cluster(worker(), worker(), root=root), known)[0] == 10
    assert capacities(cluster(worker(), root=root), known)[0] > 10


def test_the_first_of_a_share_stay() -> None:
    """And there is room for a layer of the others, and a tile, which is 4 groups."""
    shares = [range(20), range(30, 40), range(20, 30)]
    shape = WORK.shape
    found = residents(shares, [12, 30, 0], shape)
    assert found == (range(11), range(30, 40), range(20, 20))
    ahead = (20 - len(found[0]) + 4) / shape.n_layers
    assert len(found[0]) + ahead <= 12 < len(found[0]) + 1 + ahead
    assert residents([range(20)], [19], replace(shape, n_layers=1)) == (range(0),)


@given(st.integers(0, 88), st.integers(1, 88))
def test_what_can_be_streamed_fits(fits: int, share: int) -> None:
    shape = WORK.shape
    if share <= streamable(fits, shape):
        (stay,) = residents([range(share)], [fits], shape)
        ahead = (share - len(stay) + 4) / shape.n_layers if len(stay) < share else 0
        assert len(stay) + ahead <= fits


@pytest.mark.parametrize("groups", [0, 1, 7])
def test_what_so_many_groups_take(groups: int) -> None:
    shape = WORK.shape
    assert groups_in(bytes_for(groups, shape), shape) == groups
    assert groups_in(bytes_for(groups, shape) - 1, shape) == max(0, groups - 1)
    assert groups_at_root(bytes_at_root(groups, WORK), WORK) == groups
    assert groups_at_root(bytes_at_root(groups, WORK) - 1, WORK) == max(0, groups - 1)

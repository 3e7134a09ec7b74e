"""Neuron groups cover a layer's neurons, once each."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from halo_edge.groups.partition import GROUP_SIZE, TILE_NEURONS, Partition, tiles


@given(st.integers(1, 20_000), st.integers(1, 300), st.data())
def test_runs_of_groups_cover_the_neurons(
    neurons: int, group_size: int, data: st.DataObject
) -> None:
    partition = Partition(neurons, group_size)
    cut = data.draw(st.integers(0, partition.n_groups))
    first, second = (
        partition.neuron_range(groups) for groups in (range(cut), range(cut, partition.n_groups))
    )
    assert (first.start, first.stop, second.stop) == (0, second.start, neurons) or (
        cut == partition.n_groups and first == range(neurons) and len(second) == 0
    )
    assert len(first) == min(cut * group_size, neurons)


@pytest.mark.parametrize(
    ("neurons", "n_groups"), [(1, 1), (64, 1), (65, 2), (1536, 24), (5632, 88), (8960, 140)]
)
def test_number_of_groups(neurons: int, n_groups: int) -> None:
    assert Partition(neurons).n_groups == n_groups
    assert Partition(neurons).neuron_range(range(n_groups - 1, n_groups)) == range(
        (n_groups - 1) * GROUP_SIZE, neurons
    )


@given(st.integers(0, 3000), st.integers(0, 3000))
def test_tiles(start: int, length: int) -> None:
    neurons = range(start, start + length)
    found = tiles(neurons)
    assert [neuron for tile in found for neuron in tile] == list(neurons)
    assert all(0 < len(tile) <= TILE_NEURONS for tile in found)
    assert all(tile.start % TILE_NEURONS == 0 for tile in found[1:])


def test_neighbours_have_tiles_in_common() -> None:
    assert set(tiles(range(100, 1000))) & set(tiles(range(300, 900))) == {range(512, 768)}

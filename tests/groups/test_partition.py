"""Neuron groups cover a layer's neurons, once each."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from halo_edge.groups.partition import (
    GROUP_SIZE,
    MOST_MORE,
    TILE_NEURONS,
    Partition,
    tiles,
    tiles_with,
)


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


def test_pieces_that_are_known() -> None:
    """A share of 128 to 640, and a part of the next one's, in one share."""
    mine, others = tiles(range(128, 640)), tiles(range(640, 1024))
    found = tiles_with(range(128, 896), [*mine, *others])
    assert found == [*mine, range(640, 768), range(768, 896)]
    assert tiles_with(range(128, 1024), [*mine, *others]) == [*mine, *others]
    assert tiles_with(range(256, 512), mine) == [range(256, 512)]
    assert tiles_with(range(0, 0), mine) == []


def test_not_too_many_pieces() -> None:
    known = [range(at, at + 64) for at in range(0, 512, 64)]
    assert tiles_with(range(512), known) == tiles(range(512))


@given(st.integers(0, 2000), st.integers(0, 2000), st.data())
def test_pieces_cover_a_share(start: int, length: int, data: st.DataObject) -> None:
    neurons = range(start, start + length)
    bound = st.integers(0, 4000)
    ranges = data.draw(st.lists(st.tuples(bound, bound), max_size=4))
    known = [tile for a, b in ranges for tile in tiles(range(min(a, b), max(a, b)))]
    found = tiles_with(neurons, known)
    assert [n for piece in found for n in piece] == list(neurons)
    assert len(found) <= len(tiles(neurons)) + MOST_MORE
    for piece in found:
        assert piece.start // TILE_NEURONS == (piece.stop - 1) // TILE_NEURONS

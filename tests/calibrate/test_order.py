"""The order of neurons: every one once, tiers by importance, balanced clusters inside."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from halo_edge.calibrate.order import TIERS, clusters, permutation


@given(
    neurons=st.integers(1, 300), group_size=st.sampled_from([1, 8, 32, 64]), seed=st.integers(0, 99)
)
def test_every_neuron_once(neurons: int, group_size: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    importance = rng.exponential(size=neurons).astype(np.float32)
    features = rng.standard_normal((neurons, 4), np.float32)
    order = permutation(importance, features, group_size, rng)
    assert order.dtype == np.int32
    assert (np.sort(order) == np.arange(neurons)).all()


def test_tiers_fall_in_importance() -> None:
    rng = np.random.default_rng(0)
    importance = rng.exponential(size=1536).astype(np.float32)
    order = permutation(importance, rng.standard_normal((1536, 8), np.float32), 64, rng)
    tiers = importance[order].reshape(TIERS, -1)
    assert (tiers.min(axis=1)[:-1] >= tiers.max(axis=1)[1:]).all()
    for tier in tiers:
        groups = tier.reshape(-1, 64).sum(axis=1)
        assert (np.diff(groups) <= 0).all()


def test_a_last_smaller_group_has_the_least() -> None:
    rng = np.random.default_rng(0)
    importance = rng.exponential(size=200).astype(np.float32)
    order = permutation(importance, rng.standard_normal((200, 8), np.float32), 64, rng)
    assert set(order[192:]) == set(np.argsort(importance)[:8])


def test_neurons_that_fire_together_are_one_group() -> None:
    rng = np.random.default_rng(0)
    kinds = rng.permutation(np.repeat(np.arange(4), 32))
    features = rng.standard_normal((4, 16), np.float32)[kinds] * 3
    features += 0.3 * rng.standard_normal((128, 16), np.float32)
    found = clusters(features * rng.uniform(0.1, 10, (128, 1)), 32, rng)
    assert sorted(set(kinds[group].tolist()).pop() for group in found) == [0, 1, 2, 3]
    assert all(len(set(kinds[group].tolist())) == 1 for group in found)


@pytest.mark.parametrize("same", [0.0, 1.0])
def test_clusters_are_balanced_even_where_there_are_none(same: float) -> None:
    features = np.full((96, 4), same, np.float32)
    found = clusters(features, 32, np.random.default_rng(0))
    assert [len(group) for group in found] == [32, 32, 32]
    assert sorted(np.concatenate(found).tolist()) == list(range(96))

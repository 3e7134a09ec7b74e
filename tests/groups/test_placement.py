"""Profiles in another order still say the same of the same neurons."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from halo_edge.groups.placement import Placement, placed, reordered
from halo_edge.groups.profile import Profile

MakeProfile = Callable[..., Profile]


@pytest.fixture(params=[64, 96])  # 8 groups, and 5 of 96 with one of 32
def profile(
    request: pytest.FixtureRequest, tiny_model: Path, random_profile: MakeProfile
) -> Profile:
    return random_profile(tiny_model, group_size=request.param)


def by_neuron(profile: Profile, layer: int) -> np.ndarray:
    """[F, 2 + K + 1]: what is said of the file's neurons, by their group and by themselves."""
    of = profile.layers[layer]
    groups = np.arange(len(of.permutation)) // profile.group_size
    parts = [of.energy[groups, None], of.residual[groups, None], of.regression]
    return np.concatenate(parts, axis=1)[np.argsort(of.permutation)]


def test_the_profile_s_own_order(profile: Profile) -> None:
    assert placed(profile, Placement.CRITICAL) is profile


def test_random_groups_keep_their_neurons_and_figures(profile: Profile) -> None:
    shuffled = placed(profile, Placement.RANDOM, seed=1)
    for layer in range(len(profile.layers)):
        np.testing.assert_array_equal(by_neuron(shuffled, layer), by_neuron(profile, layer))
        before, after = profile.layers[layer], shuffled.layers[layer]
        assert (before.permutation != after.permutation).any()
        for i, energy in enumerate(after.energy):
            (was,) = np.flatnonzero(before.energy == energy)
            np.testing.assert_array_equal(after.predictor[i], before.predictor[was])
    again = placed(profile, Placement.RANDOM, seed=1)
    np.testing.assert_array_equal(again.layers[0].permutation, shuffled.layers[0].permutation)


def test_reordered(tiny_model: Path, random_profile: MakeProfile) -> None:
    profile = random_profile(tiny_model)
    order = np.roll(np.arange(8), 1)
    rolled = reordered(profile, [order] * len(profile.layers))
    first, was = rolled.layers[0], profile.layers[0]
    np.testing.assert_array_equal(first.permutation, np.roll(was.permutation, 64))
    np.testing.assert_array_equal(first.energy, np.roll(was.energy, 1))


def test_contiguous_is_the_file_s_order(profile: Profile) -> None:
    file_order = placed(profile, Placement.CONTIGUOUS)
    for before, after in zip(profile.layers, file_order.layers, strict=True):
        np.testing.assert_array_equal(after.permutation, np.arange(512))
        np.testing.assert_array_equal(after.regression[before.permutation], before.regression)
        np.testing.assert_allclose(after.energy.sum(), before.energy.sum(), rtol=1e-5)
        np.testing.assert_allclose(after.residual.sum(), before.residual.sum(), rtol=1e-5)
        assert np.isfinite(after.predictor).all()


def test_contiguous_predicts_each_neuron_s_part_of_its_old_group(profile: Profile) -> None:
    """At the mean of the sketch, where the linearisation is exact."""
    file_order = placed(profile, Placement.CONTIGUOUS)
    for i, after in enumerate(file_order.layers):
        before = profile.layers[i]
        z = np.append(profile.layers[max(i - 1, 0)].mean, np.float32(1))
        groups = np.arange(512) // profile.group_size
        part = np.exp(before.predictor @ z)[groups] / np.bincount(groups)[groups]
        expected = np.bincount(groups, part[np.argsort(before.permutation)])
        np.testing.assert_allclose(np.exp(after.predictor @ z), expected, rtol=1e-3)


def test_a_profile_in_the_file_s_order_stays_as_it_is(profile: Profile) -> None:
    layers = tuple(
        replace(layer, permutation=np.arange(512, dtype=np.int32)) for layer in profile.layers
    )
    for before, after in zip(
        layers, placed(replace(profile, layers=layers), Placement.CONTIGUOUS).layers, strict=True
    ):
        np.testing.assert_allclose(after.predictor, before.predictor, rtol=1e-3, atol=1e-3)
        np.testing.assert_allclose(after.energy, before.energy, rtol=1e-5)

"""Losses in all layers at once, charged by the budget's own model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from halo_edge.calibrate.sweep import Window, undisturbed
from halo_edge.calibrate.tap import TappedModel
from halo_edge.calibrate.together import Together
from halo_edge.groups.profile import Profile, SpecialPosition
from halo_edge.groups.surrogate import Fill

Pieces = Callable[..., list[list[int]]]


@pytest.fixture
def profile(random_profile: Callable[..., Profile], tiny_model: Path) -> Profile:
    made = random_profile(tiny_model)
    layers = tuple(
        replace(layer, regression=np.zeros_like(layer.regression), sensitivity=0.01)
        for layer in made.layers
    )
    return replace(made, layers=layers)


@pytest.fixture
def window(tapped: TappedModel, pieces: Pieces) -> Window:
    return undisturbed(tapped, pieces(1, 200)[0], np.full(3, 1e9))


def test_damage_is_measured_and_predicted(
    tapped: TappedModel, profile: Profile, window: Window
) -> None:
    together = Together(tapped, profile)
    zero = together.damage(window, Fill.ZERO, np.random.default_rng(0))
    assert zero.measured > 0
    assert zero.predicted > 0
    # A fill of zeros by another name; the profile says that half of the energy is left after it.
    sketch = together.damage(window, Fill.SKETCH, np.random.default_rng(0))
    assert sketch.measured == pytest.approx(zero.measured, rel=1e-3)
    assert sketch.predicted == pytest.approx(zero.predicted / 2, rel=1e-3)


def test_twice_the_sensitivity_is_twice_the_prediction(
    tapped: TappedModel, profile: Profile, window: Window
) -> None:
    layers = tuple(replace(layer, sensitivity=0.02) for layer in profile.layers)
    found = [
        Together(tapped, p).damage(window, Fill.ZERO, np.random.default_rng(0))
        for p in (profile, replace(profile, layers=layers))
    ]
    assert found[1].measured == found[0].measured
    assert found[1].predicted == pytest.approx(2 * found[0].predicted)


def test_what_is_never_gone_without_is_not_lost(
    tapped: TappedModel, profile: Profile, window: Window
) -> None:
    fragile = tuple(replace(layer, sensitivity=1e4) for layer in profile.layers)
    found = Together(tapped, replace(profile, layers=fragile)).damage(
        window, Fill.ZERO, np.random.default_rng(0)
    )
    assert found.predicted == 0
    assert found.measured < 1e-3
    special = tuple(SpecialPosition(i, 5.0) for i in range(200))
    found = Together(tapped, replace(profile, special=special)).damage(
        window, Fill.ZERO, np.random.default_rng(0)
    )
    assert found.predicted == 0

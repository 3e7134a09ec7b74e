"""Losses in all layers at once, charged by the budget's own model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from halo_edge.calibrate.grouped import Grouped
from halo_edge.calibrate.sweep import DEVICES, Window, shares, undisturbed
from halo_edge.calibrate.tap import Floats, TappedModel
from halo_edge.calibrate.together import LOST_SHARE, Together
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


def prepared(tapped: TappedModel, profile: Profile) -> Together:
    grouped = [
        Grouped(layer.permutation, tapped.down(i), 64) for i, layer in enumerate(profile.layers)
    ]
    return Together(tapped, profile, grouped)


def test_damage_is_measured_expected_and_charged(
    tapped: TappedModel, profile: Profile, window: Window
) -> None:
    together = prepared(tapped, profile)
    zero = together.damage(window, Fill.ZERO, np.random.default_rng(0))
    assert zero.measured > 0
    assert zero.expected > 0
    assert zero.charged > 0
    # A fill of zeros by another name; the profile says that half of the energy is left after it.
    sketch = together.damage(window, Fill.SKETCH, np.random.default_rng(0))
    assert sketch.measured == pytest.approx(zero.measured, rel=1e-3)
    assert sketch.expected == pytest.approx(zero.expected, rel=1e-3)
    assert sketch.charged == pytest.approx(zero.charged / 2, rel=1e-3)


def test_expected_is_by_the_energy_that_was_lost(
    tapped: TappedModel, profile: Profile, window: Window
) -> None:
    """Reckoned here from the first layer, which no earlier loss has changed."""
    energy, count = 0.0, 0
    activations = np.zeros((3, 200, 512), np.float32)

    def look(layer: int, at: slice, _: Floats, a: Floats, __: Floats) -> None:
        activations[layer, at] = a

    tapped.run(window.tokens, look=look)
    lost = np.random.default_rng(0).random((3, DEVICES, 200)) < LOST_SHARE
    down = tapped.down(0)
    layer = profile.layers[0]
    for device in range(1, DEVICES):
        for group in shares(512, 64)[device]:
            neurons = layer.permutation[64 * group : 64 * group + 64]
            partial = activations[0, lost[0, device]][:, neurons] @ down[:, neurons].T
            energy += float((partial**2).sum())
        count += int(lost[0, device].sum())
    assert count > 5
    # The other layers cost nothing.
    cheap = tuple(replace(each, sensitivity=0.0) for each in profile.layers[1:])
    together = prepared(tapped, replace(profile, layers=(layer, *cheap)))
    found = together.damage(window, Fill.ZERO, np.random.default_rng(0))
    assert found.expected == pytest.approx(0.01 / layer.total * energy, rel=1e-3)


def test_twice_the_sensitivity_is_twice_the_prediction(
    tapped: TappedModel, profile: Profile, window: Window
) -> None:
    layers = tuple(replace(layer, sensitivity=0.02) for layer in profile.layers)
    found = [
        prepared(tapped, p).damage(window, Fill.ZERO, np.random.default_rng(0))
        for p in (profile, replace(profile, layers=layers))
    ]
    assert found[1].measured == found[0].measured
    assert found[1].expected == pytest.approx(2 * found[0].expected)
    assert found[1].charged == pytest.approx(2 * found[0].charged)


def test_what_is_never_gone_without_is_not_lost(
    tapped: TappedModel, profile: Profile, window: Window
) -> None:
    fragile = tuple(replace(layer, sensitivity=1e4) for layer in profile.layers)
    found = prepared(tapped, replace(profile, layers=fragile)).damage(
        window, Fill.ZERO, np.random.default_rng(0)
    )
    assert found.expected == found.charged == 0
    assert found.measured < 1e-3
    special = tuple(SpecialPosition(i, 5.0) for i in range(200))
    found = prepared(tapped, replace(profile, special=special)).damage(
        window, Fill.ZERO, np.random.default_rng(0)
    )
    assert found.expected == found.charged == 0

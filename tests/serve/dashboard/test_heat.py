"""The heat map: levels from a sketch, and marks of what happened since the last picture."""

from __future__ import annotations

import base64
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from halo_edge.cluster.relaxation import Happened
from halo_edge.groups.predictor import Predictor
from halo_edge.groups.profile import Floats, Profile
from halo_edge.serve.dashboard.heat import MAX_COLUMNS, MAX_MARKS, Heat, Mark


class Source:
    """`asked`: how often somebody did."""

    def __init__(self, sketches: Floats | None = None) -> None:
        self.z = sketches
        self.what = Happened()
        self.asked = 0

    def sketches(self) -> Floats | None:
        self.asked += 1
        return self.z

    def happened(self) -> Happened:
        return self.what


@pytest.fixture(scope="module")
def profile(tiny_model: Path, random_profile: Callable[..., Profile]) -> Profile:
    """3 layers, 8 groups."""
    return random_profile(tiny_model)


def levels(encoded: str, layers: int = 3) -> NDArray[np.uint8]:
    return np.frombuffer(base64.b64decode(encoded), np.uint8).reshape(layers, -1)


def test_nothing_is_copied_that_nobody_asked_for(profile: Profile) -> None:
    source = Source(np.zeros((3, 4), np.float32))
    heat = Heat(source, profile, 8)
    for _ in range(5):
        heat.note()
    assert source.asked == 0
    assert heat.picture() is None
    heat.want()
    for _ in range(5):
        heat.note()
    assert source.asked == 1
    assert heat.picture() is not None
    assert heat.picture() is None  # nothing new


def test_levels_are_those_of_the_predicted_energies(profile: Profile) -> None:
    z = np.random.default_rng(3).standard_normal((3, 4), np.float32)
    heat = Heat(Source(z), profile, 8)
    heat.want()
    heat.note()
    picture = heat.picture()
    assert picture is not None
    predictor, scale = Predictor(profile), heat.scale
    for layer, of in enumerate(profile.layers):
        before = z[max(layer - 1, 0)][None]
        nats = predictor.energies(layer, before, range(8))[0] * of.sensitivity / of.total
        share = np.log(nats / scale.least) / np.log(scale.most / scale.least)
        expected = np.rint(255 * np.clip(share, 0, 1))
        np.testing.assert_allclose(levels(picture.levels)[layer], expected, atol=1)


def test_the_scale_holds_what_is_usual(profile: Profile) -> None:
    heat = Heat(Source(), profile, 8)
    usual = levels(heat.scale.usual)
    assert usual.shape == (3, 8)
    worth = np.stack([of.energy * of.sensitivity / of.total for of in profile.layers])
    assert heat.scale.least < worth.min() < worth.max() < heat.scale.most
    assert (np.argsort(usual.ravel()) == np.argsort(worth.ravel())).mean() > 0.8


def test_many_groups_share_columns(profile: Profile) -> None:
    layers = tuple(
        replace(of, energy=np.ones(100, np.float32), predictor=np.zeros((100, 5), np.float32))
        for of in profile.layers
    )
    heat = Heat(Source(np.zeros((3, 4), np.float32)), replace(profile, layers=layers), 100)
    assert heat.scale.columns == MAX_COLUMNS
    usual = levels(heat.scale.usual)
    assert usual.shape == (3, MAX_COLUMNS)
    assert len(np.unique(usual[0])) == 2  # of one group, and of two


def test_marks_are_of_what_happened_since_the_last_picture(profile: Profile) -> None:
    source = Source()
    source.what = Happened({(1, 0): 2})
    heat = Heat(source, None, 8)
    source.what = Happened({(1, 0): 2, (2, 1): 1}, {(1, 0): 3}, {(2, 1): 4})
    heat.want()
    heat.note()
    picture = heat.picture()
    assert picture is not None
    assert picture.levels == heat.scale.usual == ""
    assert picture.marks == (Mark(0, 1, 0, 3, 0), Mark(1, 2, 1, 0, 4))
    source.what = Happened({(1, 0): 2, (2, 1): 1}, {(1, 0): 4}, {(2, 1): 4})
    heat.want()
    heat.note()
    picture = heat.picture()
    assert picture is not None
    assert picture.marks == (Mark(0, 1, 0, 1, 0),)


def test_a_picture_has_a_bound() -> None:
    source = Source()
    heat = Heat(source, None, 8)
    source.what = Happened({(device, layer): 1 for device in range(100) for layer in range(30)})
    heat.want()
    heat.note()
    picture = heat.picture()
    assert picture is not None
    assert len(picture.marks) == MAX_MARKS

"""The sweep finds the layer that a model cannot do without."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from halo_edge.calibrate.sweep import DEVICES, Sweep, Window, shares, undisturbed
from halo_edge.calibrate.tap import TappedModel
from halo_edge.engine.load import load

Pieces = Callable[..., list[list[int]]]
FRAGILE = 1


@pytest.fixture(scope="module")
def fragile_model(
    make_model: Any, gguf_image: Any, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The FFN of one layer answers ten times as strongly as those of the others."""
    image = gguf_image.read(make_model(quantization="f32"))
    for layer in {0, 1, 2} - {FRAGILE}:
        _, shape, offset = image.tensors[f"blk.{layer}.ffn_down.weight"]
        end = offset + 4 * int(np.prod(shape))
        weak = np.frombuffer(image.data[offset:end], np.float32) / 10
        image.data = image.data[:offset] + weak.astype(np.float32).tobytes() + image.data[end:]
    return image.write(tmp_path_factory.mktemp("fragile") / "m.gguf")


@pytest.fixture
def fragile(fragile_model: Path) -> TappedModel:
    return TappedModel(load(fragile_model, threads=1))


def prepared(
    tapped: TappedModel, window: list[int], special: frozenset[int] = frozenset()
) -> tuple[Sweep, Window]:
    found = undisturbed(tapped, window, np.full(3, 1e9))
    totals = (found.outputs**2).sum(axis=2).mean(axis=1).tolist()
    order = np.tile(np.arange(512, dtype=np.int32), (3, 1))
    return Sweep(tapped, order, 64, totals, special), found


def sensitivities(tapped: TappedModel, tokens: list[int]) -> list[float]:
    sweep, window = prepared(tapped, tokens)
    found = []
    for layer in range(3):
        nats, energy = sweep.layer(layer, window, np.random.default_rng(layer))
        # A quarter of the tokens lose a quarter of the layer.
        assert 0.03 * len(tokens) / 4 < energy < len(tokens) / 4
        found.append(nats / energy)
    return found


def test_the_fragile_layer_is_found(fragile: TappedModel, pieces: Pieces) -> None:
    (tokens,) = pieces(1, 150)
    found = sensitivities(fragile, tokens)
    assert np.argmax(found) == FRAGILE
    assert found[FRAGILE] > 5 * np.median(found)


def test_the_same_seed_gives_the_same(tapped: TappedModel, pieces: Pieces) -> None:
    sweep, window = prepared(tapped, pieces(1)[0])
    first, second = (sweep.layer(1, window, np.random.default_rng(7)) for _ in range(2))
    assert first == second
    assert first[0] > 0


def test_special_positions_and_outliers_are_never_lost(tapped: TappedModel, pieces: Pieces) -> None:
    sweep, window = prepared(tapped, pieces(1)[0], frozenset(range(1, 96)))
    window.usual[:, 0] = False
    assert sweep.layer(1, window, np.random.default_rng(0)) == (0, 0)


def test_losing_a_position_costs_something(fragile: TappedModel, pieces: Pieces) -> None:
    sweep, window = prepared(fragile, pieces(1)[0])
    assert sweep.special(FRAGILE, 3, window) > sweep.special(2, 3, window) > 0


@pytest.mark.parametrize("groups", [1, 2, 3, 4, 7, 24])
def test_shares_are_all_groups_once(groups: int) -> None:
    found = shares(64 * groups, 64)
    assert len(found) == DEVICES
    assert [group for share in found for group in share] == list(range(groups))

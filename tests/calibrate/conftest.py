"""Models to calibrate, and text for them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from halo_edge.calibrate.tap import TappedModel
from halo_edge.engine.load import LoadedModel, load

Pieces = list[list[int]]


@pytest.fixture
def loaded(tiny_model: Path) -> LoadedModel:
    """3 layers, hidden 128, 512 neurons, vocabulary 512, context 512."""
    return load(tiny_model, threads=1)


@pytest.fixture
def tapped(loaded: LoadedModel) -> TappedModel:
    return TappedModel(loaded)


@pytest.fixture
def pieces() -> Callable[..., Pieces]:
    """`pieces(number, length=96, seed=0)`: of random tokens."""

    def make(number: int, length: int = 96, seed: int = 0) -> Pieces:
        rng = np.random.default_rng(seed)
        return [[0, *rng.integers(2, 500, length - 1).tolist()] for _ in range(number)]

    return make

"""z out of the FFN's graph against B x, and the values of x that follow it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from halo_edge.compute.activations import Activations
from halo_edge.compute.ffn import FfnGraphs, FfnWeights
from halo_edge.compute.rows import Rows
from halo_edge.compute.runtime import Runtime
from halo_edge.groups import sketch as sketch_module
from halo_edge.groups.sketch import Sketch
from halo_edge.model.gguf_file import GgufFile

HIDDEN, N_LAYERS, ROWS = 128, 3, 20  # of the tiny model


def graphs_with(sketch: Sketch, acts: Activations, path: Path, empty: int | None) -> FfnGraphs:
    gguf = GgufFile.open(path)
    weights = [() if i == empty else (FfnWeights.from_gguf(gguf, i),) for i in range(N_LAYERS)]
    x, out = Rows.f32(acts.x), Rows.f32(acts.ffn)
    return FfnGraphs(Runtime(1), weights, x, out, sketch.projections)


@pytest.mark.parametrize("tokens", [1, 3, ROWS])
def test_each_run_brings_z_up_to_date(make_profile: Any, tiny_model: Path, tokens: int) -> None:
    """Also that of a layer of which this device has no neuron group; and the FFN is as without."""
    profile = make_profile(n_layers=N_LAYERS, hidden=HIDDEN, neurons=512)
    acts = Activations(ROWS, HIDDEN)
    acts.x[:] = np.random.default_rng(1).standard_normal(acts.x.shape)
    sketch = Sketch(profile, ROWS)
    graphs = graphs_with(sketch, acts, tiny_model, empty=1)
    plain = FfnGraphs(
        Runtime(1),
        [(FfnWeights.from_gguf(GgufFile.open(tiny_model), i),) for i in range(N_LAYERS)],
        Rows.f32(acts.x),
        Rows.f32(acts.ffn),
    )
    for layer in range(N_LAYERS):
        plain.run(layer, tokens)
        expected = acts.ffn.copy()
        acts.ffn[:] = 7
        assert graphs.run(layer, tokens) == (layer != 1)
        assert np.array_equal(acts.ffn[:tokens], expected[:tokens]) == (layer != 1)
        assert (acts.ffn[tokens:] == 7).all()
        z = acts.x[:tokens] @ profile.layers[layer].basis.T
        np.testing.assert_allclose(sketch.of(layer, tokens), z, atol=0.01 * np.abs(z).max())
    assert sketch.before(0, tokens) is not sketch.of(0, tokens)
    np.testing.assert_array_equal(sketch.before(0, tokens), sketch.of(0, tokens))
    np.testing.assert_array_equal(sketch.before(2, tokens), sketch.of(1, tokens))


def test_extension(make_profile: Any, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Values of x less what z says of them: nothing is left of an x that z tells all of."""
    monkeypatch.setattr(sketch_module, "EXTENSION", 40)
    profile = make_profile(n_layers=N_LAYERS, hidden=HIDDEN, neurons=512)
    acts = Activations(ROWS, HIDDEN)
    sketch = Sketch(profile, ROWS, acts.x)
    assert sketch.extension == 40
    graphs = graphs_with(sketch, acts, tiny_model, empty=None)
    rng = np.random.default_rng(1)
    basis = profile.layers[2].basis
    acts.x[:] = rng.standard_normal((ROWS, profile.rank)) @ basis
    graphs.run(2, ROWS)
    known = sketch.of(2, ROWS)[:, profile.rank :]
    assert known.shape == (ROWS, 40)
    assert np.abs(known).max() < 0.02 * np.abs(acts.x).max()
    _, _, right = np.linalg.svd(basis)
    acts.x[:] = rng.standard_normal((ROWS, HIDDEN - profile.rank)) @ right[profile.rank :]
    graphs.run(2, ROWS)
    unknown = sketch.of(2, ROWS)[:, profile.rank :]
    chosen = np.arange(40) * HIDDEN // 40
    np.testing.assert_allclose(unknown, acts.x[:, chosen], atol=0.02)


def test_extension_is_no_wider_than_x(make_profile: Any) -> None:
    profile = make_profile(n_layers=1, hidden=32, neurons=512)
    x = np.zeros((4, 32), np.float32)
    assert Sketch(profile, 4, x).of(0, 2).shape == (2, profile.rank + 32)


def test_a_basis_beyond_f16_stays_finite(make_profile: Any, tiny_model: Path) -> None:
    profile = make_profile(n_layers=N_LAYERS, hidden=HIDDEN, neurons=512, basis_scale=1e9)
    acts = Activations(ROWS, HIDDEN)
    acts.x[:] = 1
    sketch = Sketch(profile, ROWS, acts.x)
    graphs_with(sketch, acts, tiny_model, empty=None).run(0, 1)
    assert np.isfinite(sketch.of(0, 1)).all()

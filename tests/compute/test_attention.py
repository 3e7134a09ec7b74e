"""Attention for a range of KV heads, and its cells."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from halo_edge.compute.activations import Activations, StepInputs
from halo_edge.compute.attention import AttentionBuilder, KvHeadRange
from halo_edge.compute.kv_cache import KvCache
from halo_edge.compute.runtime import Arena, Runtime
from halo_edge.errors import HaloError
from halo_edge.model.gguf_file import GgufFile
from halo_edge.model.hparams import HyperParameters

TOKENS = 7


def partial(
    path: Path, heads: tuple[int, int], hidden: NDArray[np.float32], layer: int = 1
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """What the heads add to `hidden`, f32[TOKENS, H], and the x that follows."""
    gguf = GgufFile.open(path)
    params = HyperParameters.from_gguf(gguf)
    range_ = KvHeadRange(*heads)
    cache = KvCache(params.n_layers, 256, len(range_) * params.head_dim)
    acts, inputs = Activations(TOKENS, params.hidden), StepInputs(TOKENS, cache.cells)
    acts.hidden[:] = hidden
    inputs.positions[:] = range(TOKENS)
    inputs.cells[:] = range(5, 5 + TOKENS)  # cells are not positions
    inputs.mask[:] = -np.inf
    for position in range(TOKENS):
        inputs.mask[position, 5 : 6 + position] = 0
    builder = AttentionBuilder(Runtime(1), gguf, params, range_, cache, acts, inputs)
    graph = builder.build(layer, [TOKENS], Arena())
    graph.look([range(256)])
    graph()
    return acts.hidden - hidden, acts.x.copy()


@pytest.fixture(scope="module")
def hidden() -> NDArray[np.float32]:
    return np.random.default_rng(3).standard_normal((TOKENS, 128), np.float32)


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "qwen3"])
def test_ranges_of_heads_sum_to_the_whole(
    architecture: str,
    make_model: Any,
    gguf_image: Any,
    hidden: NDArray[np.float32],
    tmp_path: Path,
) -> None:
    image = gguf_image.read(
        make_model(architecture=architecture, quantization="f32", n_heads=8, n_kv_heads=4)
    )
    bias = np.full(128, 3.0, np.float32)  # must come once, and not once a range
    image.add("blk.1.attn_output.bias", bias)
    path = image.write(tmp_path / "model.gguf")

    whole, x = partial(path, (0, 4), hidden)
    parts = [partial(path, heads, hidden)[0] for heads in ((0, 1), (1, 3), (3, 4))]

    assert np.abs(whole).max() > 1
    np.testing.assert_allclose(sum(parts), whole, atol=2e-5)
    assert not np.allclose(parts[0], parts[2], atol=0.1)
    after = hidden + whole
    rms = np.sqrt(np.mean(after**2, axis=1, keepdims=True) + 1e-5)
    weight = GgufFile.open(path).tensor_bytes("blk.1.ffn_norm.weight").view(np.float32)
    np.testing.assert_allclose(x, after / rms * weight, atol=1e-5)


def test_output_bias(make_model: Any, gguf_image: Any, hidden: Any, tmp_path: Path) -> None:
    plain = make_model(quantization="f32")
    bias = np.linspace(-1, 1, 128, dtype=np.float32)
    image = gguf_image.read(plain).add("blk.1.attn_output.bias", bias)
    with_bias, _ = partial(image.write(tmp_path / "model.gguf"), (0, 2), hidden)
    np.testing.assert_allclose(
        with_bias - partial(plain, (0, 2), hidden)[0], bias + 0 * hidden, atol=1e-5
    )


def test_layers_after_the_first_begin_with_the_ffn_before(make_model: Any, hidden: Any) -> None:
    """Layer 0 must not: there is none before it, and the buffer holds another step's."""
    gguf = GgufFile.open(make_model(quantization="f32"))
    params = HyperParameters.from_gguf(gguf)
    cache = KvCache(params.n_layers, 256, params.n_kv_heads * params.head_dim)
    acts, inputs = Activations(TOKENS, params.hidden), StepInputs(TOKENS, 256)
    inputs.cells[:] = range(TOKENS)
    heads = KvHeadRange(0, params.n_kv_heads)
    builder = AttentionBuilder(Runtime(1), gguf, params, heads, cache, acts, inputs)

    def run(layer: int, ffn: float) -> NDArray[np.float32]:
        acts.hidden[:], acts.ffn[:] = hidden, ffn
        graph = builder.build(layer, [TOKENS], Arena())
        graph.look([range(256)])
        graph()
        return acts.hidden.copy()

    assert np.array_equal(run(0, 0.0), run(0, 5.0))
    assert not np.allclose(run(1, 0.0), run(1, 5.0), atol=1)


@pytest.mark.parametrize("rows", [(3, 4), (1, 5, 1)])
def test_each_sequence_looks_at_its_own_window(
    rows: tuple[int, ...], make_model: Any, hidden: Any
) -> None:
    """As if it were alone; and again elsewhere, by the same graph."""
    gguf = GgufFile.open(make_model(quantization="f32"))
    params = HyperParameters.from_gguf(gguf)
    heads = KvHeadRange(0, params.n_kv_heads)

    def attend(rows: tuple[int, ...], hidden: Any, firsts: list[list[int]]) -> list[Any]:
        """What comes out when the sequences' cells begin there."""
        tokens = sum(rows)
        cache = KvCache(params.n_layers, 256, params.n_kv_heads * params.head_dim)
        acts, inputs = Activations(tokens, params.hidden), StepInputs(tokens, 256)
        builder = AttentionBuilder(Runtime(1), gguf, params, heads, cache, acts, inputs)
        graph = builder.build(0, rows, Arena())
        found = []
        for starts in firsts:
            inputs.mask[:] = -np.inf
            acts.hidden[:], windows, row = hidden, [], 0
            for n, start in zip(rows, starts, strict=True):
                windows.append(range(start - 1, start + 31))  # its first cell is somebody else's
                inputs.cells[row : row + n] = range(start, start + n)
                inputs.positions[row : row + n] = range(n)
                for i in range(n):
                    inputs.mask[row + i, 1 : 2 + i] = 0
                row += n
            graph.look(windows)
            graph()
            found.append(acts.hidden.copy())
        return found

    starts = [40 * i + 7 for i in range(len(rows))]
    here, there = attend(rows, hidden, [starts, starts[::-1]])
    np.testing.assert_array_equal(here, there)
    edges = np.cumsum((0, *rows))
    alone = [
        attend((n,), hidden[first : first + n], [[9]])[0]
        for n, first in zip(rows, edges, strict=False)
    ]
    np.testing.assert_allclose(here, np.concatenate(alone), atol=1e-5)
    assert not np.allclose(here, attend((TOKENS,), hidden, [[9]])[0], atol=1e-3)


def test_range_that_cuts_a_block_is_refused(make_model: Any, hidden: Any) -> None:
    """K-quants have blocks of 256 values, here four heads."""
    path = make_model(quantization="q4_K", n_heads=8, n_kv_heads=4, head_dim=64)
    whole, _ = partial(path, (0, 4), hidden)
    assert np.isfinite(whole).all()
    with pytest.raises(HaloError, match=r"blk\.1\.attn_output\.weight cannot be cut"):
        partial(path, (0, 1), hidden)

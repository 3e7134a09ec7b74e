"""Shards of permuted neurons: the same FFN, whoever holds which part."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGMLQuantizationType as Type
from numpy.typing import NDArray

from halo_edge.compute.ffn import FfnGraphs, FfnWeights
from halo_edge.compute.requantise import DownType
from halo_edge.compute.rows import Rows
from halo_edge.compute.runtime import Runtime
from halo_edge.groups.ffn_source import FfnSource
from halo_edge.model.gguf_file import GgufFile

FFN, LAYERS = 512, 2
PARTS = [range(0, 128), range(128, 192), range(192, 512)]


def permutations(seed: int = 0) -> list[NDArray[np.int32]]:
    rng = np.random.default_rng(seed)
    return [rng.permutation(FFN).astype(np.int32) for _ in range(LAYERS)]


def compute(weights: FfnWeights, x: NDArray[np.float32]) -> NDArray[np.float32]:
    out = np.zeros_like(x)
    assert FfnGraphs(Runtime(1), [(weights,)], Rows.f32(x), Rows.f32(out)).run(0, len(x))
    return out


def relative_rms(a: NDArray[Any], b: NDArray[Any]) -> float:
    return float(np.sqrt(np.mean((a - b) ** 2) / np.mean(b**2)))


@pytest.fixture
def x() -> NDArray[np.float32]:
    return np.random.default_rng(1).standard_normal((5, 256), np.float32)


# Measured: the activation is rounded in other blocks (0.01), and down once more (0.003 as Q8_0,
# 0.08 in 4 bits).
@pytest.mark.parametrize(
    ("quantization", "down", "tolerance"),
    [
        ("f32", DownType.Q8_0, 1e-6),
        ("f16", DownType.SAME, 1e-3),
        ("q4_0", DownType.Q8_0, 0.03),
        ("q4_0", DownType.SAME, 0.15),
        ("q4_1", DownType.Q8_0, 0.03),
        ("q4_K", DownType.Q8_0, 0.03),
        ("q8_0", DownType.SAME, 0.03),
    ],
)
def test_permuted_shards_sum_to_the_whole(
    make_model: Callable[..., Path],
    x: NDArray[np.float32],
    quantization: str,
    down: DownType,
    tolerance: float,
) -> None:
    path = make_model(quantization=quantization, hidden=256, ffn=FFN, n_layers=LAYERS)
    gguf = GgufFile.open(path)
    whole = compute(FfnWeights.from_gguf(gguf, 1), x)
    shards = FfnSource(gguf, permutations(), down).cuts(1, PARTS)
    total = sum(compute(shard, x).astype(np.float64) for shard in shards)
    assert relative_rms(total, whole) < tolerance


def test_a_shard_has_the_neurons_of_its_range(make_model: Callable[..., Path]) -> None:
    gguf = GgufFile.open(make_model(quantization="f32", hidden=256, ffn=FFN, n_layers=LAYERS))
    order, whole = permutations(), FfnWeights.from_gguf(gguf, 0)
    source = FfnSource(gguf, order)
    for part, shard in zip(PARTS, source.cuts(0, PARTS), strict=True):
        neurons = order[0][part.start : part.stop]
        for ours, theirs in ((shard.gate, whole.gate), (shard.up, whole.up)):
            np.testing.assert_array_equal(ours.bytes_2d(), theirs.bytes_2d()[neurons])
        columns = whole.down.bytes_2d().view(np.float32)[:, neurons]
        np.testing.assert_array_equal(shard.down.bytes_2d().view(np.float32), columns)
        alone = source.cut(0, part)
        np.testing.assert_array_equal(alone.down.bytes_2d(), shard.down.bytes_2d())


def test_neurons_in_the_file_s_order_are_a_part_of_it(make_model: Callable[..., Path]) -> None:
    gguf = GgufFile.open(make_model(quantization="q4_0"))
    source = FfnSource(gguf)
    part = source.mapped(1, range(128, 192))
    cut, whole = source.cut(1, range(128, 192)), source.whole(1)
    assert part is not None
    for name in ("gate", "up", "down"):
        mapped, expected = getattr(part, name), getattr(cut, name)
        assert np.array_equal(mapped.bytes_2d(), expected.bytes_2d())
        assert np.shares_memory(mapped.data, getattr(whole, name).data)
    assert source.mapped(1, range(128, 144)) is None  # half a block of `down`
    assert FfnSource(gguf, permutations()).mapped(1, range(128, 192)) is None


def test_down_is_requantised_as_asked(make_model: Callable[..., Path]) -> None:
    gguf = GgufFile.open(make_model(quantization="q4_0", hidden=256, ffn=FFN, n_layers=LAYERS))
    shard = FfnSource(gguf, permutations()).cut(0, PARTS[0])
    assert (shard.gate.ggml_type, shard.up.ggml_type) == (Type.Q4_0, Type.Q4_0)
    assert shard.down.ggml_type == Type.Q8_0
    same = FfnSource(gguf, permutations(), DownType.SAME).cut(0, PARTS[0])
    assert same.down.ggml_type == Type.Q4_0


def test_names_tell_sources_apart(make_model: Callable[..., Path]) -> None:
    sizes: dict[str, Any] = {"hidden": 256, "ffn": FFN, "n_layers": LAYERS}
    gguf = GgufFile.open(make_model(**sizes))
    other = GgufFile.open(make_model(seed=1, **sizes))
    sources = [
        FfnSource(gguf),
        FfnSource(other),
        FfnSource(gguf, permutations()),
        FfnSource(gguf, permutations(1)),
        FfnSource(gguf, permutations(), DownType.SAME),
    ]
    assert len({source.name for source in sources}) == len(sources)
    assert FfnSource(gguf, permutations()).name == sources[2].name

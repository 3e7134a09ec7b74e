"""The sizes of models, from shapes and from files."""

from __future__ import annotations

from pathlib import Path

import pytest

from halo_edge.errors import HaloError
from halo_edge.lab.shapes import Q4_0_BYTES, read_shape


def test_tinyllama() -> None:
    shape = read_shape("tinyllama-1.1b")
    assert (shape.n_layers, shape.hidden, shape.ffn, shape.kv_width) == (22, 2048, 5632, 256)
    layer = shape.attention_weights + shape.ffn_weights
    assert 22 * layer + shape.head_weights == 1_034_420_224  # 1.1e9 without the embedding
    assert shape.weight_bytes == Q4_0_BYTES
    assert shape.partition.n_groups == 88


def test_a_file_is_what_its_shape_says(tiny_model: Path) -> None:
    named, read = read_shape("tiny"), read_shape(str(tiny_model))
    assert read.name == tiny_model.name
    for field in ("n_layers", "hidden", "ffn", "kv_width", "attention_weights", "ffn_weights"):
        assert getattr(read, field) == getattr(named, field)
    assert read.head_weights == named.head_weights
    assert read.weight_bytes == pytest.approx(Q4_0_BYTES)


def test_no_model(tmp_path: Path) -> None:
    with pytest.raises(HaloError, match="no such model: nothing; give a GGUF file, or one of"):
        read_shape("nothing")
    junk = tmp_path / "junk"
    junk.write_bytes(b"junk")
    with pytest.raises(HaloError, match="not a GGUF file"):
        read_shape(str(junk))

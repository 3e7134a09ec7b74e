"""The fingerprint of a model file: the same for the same, and for nothing else."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from halo_edge.model.fingerprint import SAMPLED_BYTES, fingerprint
from halo_edge.model.gguf_file import GgufFile

STRING = 8


def of(path: Path) -> str:
    return fingerprint(GgufFile.open(path))


def test_a_copy_has_the_same(tiny_model: Path, tmp_path: Path) -> None:
    assert re.fullmatch(r"[0-9a-f]{64}", of(tiny_model))
    assert of(Path(shutil.copy(tiny_model, tmp_path))) == of(tiny_model)


def test_metadata_do_not_count(tiny_model: Path, gguf_image: Any, tmp_path: Path) -> None:
    renamed = gguf_image.read(tiny_model).set("general.name", STRING, "another name")
    assert of(renamed.write(tmp_path / "m.gguf")) == of(tiny_model)


def test_other_weights_types_or_shapes_have_another(make_model: Any) -> None:
    models = [
        make_model(),
        make_model(seed=1),
        make_model(quantization="q8_0"),
        make_model(n_layers=4),
        make_model(ffn=1024),
    ]
    assert len({of(model) for model in models}) == len(models)


def test_the_beginning_of_every_tensor_counts(
    tiny_model: Path, gguf_image: Any, tmp_path: Path
) -> None:
    original = of(tiny_model)
    for name, (_, _, offset) in gguf_image.read(tiny_model).tensors.items():
        image = gguf_image.read(tiny_model)
        data = bytearray(image.data)
        data[offset + 1] ^= 0x10
        image.data = bytes(data)
        assert of(image.write(tmp_path / "m.gguf")) != original, name


def test_tensors_shorter_than_the_sample_are_read_whole(
    tiny_model: Path, gguf_image: Any, tmp_path: Path
) -> None:
    values = np.zeros(SAMPLED_BYTES // 4 - 1, np.float32)
    first = gguf_image.read(tiny_model).add("more", values).write(tmp_path / "a.gguf")
    values[-1] = 1
    second = gguf_image.read(tiny_model).add("more", values).write(tmp_path / "b.gguf")
    assert of(first) != of(second)

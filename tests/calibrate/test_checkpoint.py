"""Checkpoints: what was saved under the same key, or nothing."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest

from halo_edge.calibrate.checkpoint import Checkpoint
from halo_edge.errors import HaloError


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "profile.safetensors"


def test_there_is_none_at_first(output: Path) -> None:
    assert Checkpoint(output, "a").load() == {}
    Checkpoint(output, "a").delete()


def test_it_is_loaded_under_the_same_key_only(output: Path) -> None:
    saved = {"x": np.arange(5), "y": np.eye(2, dtype=np.float32)}
    Checkpoint(output, "a").save({"x": np.zeros(1)})
    Checkpoint(output, "a").save(saved)
    found = Checkpoint(output, "a").load()
    assert found.keys() == saved.keys()
    for name, array in saved.items():
        assert (found[name] == array).all()
        assert found[name].dtype == array.dtype
    assert Checkpoint(output, "b").load() == {}


def test_it_is_beside_the_output_and_gone_when_deleted(output: Path) -> None:
    checkpoint = Checkpoint(output, "a")
    checkpoint.save({"x": np.zeros(1)})
    assert [path.parent for path in output.parent.iterdir()] == [output.parent]
    assert not output.exists()
    checkpoint.delete()
    assert list(output.parent.iterdir()) == []


def test_a_damaged_one_is_as_good_as_none(output: Path) -> None:
    checkpoint = Checkpoint(output, "a")
    checkpoint.save({"x": np.zeros(1000)})
    whole = checkpoint.path.read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 0xFF
    for content in (b"", b"garbage", whole[: len(whole) // 2], bytes(flipped), pickle.dumps({})):
        checkpoint.path.write_bytes(content)
        assert checkpoint.load() == {}


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(HaloError, match="cannot write"):
        Checkpoint(tmp_path / "file" / "p", "a").save({})

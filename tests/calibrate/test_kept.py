"""When a calibration's arrays are written."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from halo_edge.calibrate.checkpoint import Checkpoint
from halo_edge.calibrate.kept import EVERY_S, SHARE, Kept, cut, joined


class Clock:
    """Shows what it is set to, and goes on by `step_s` with each look."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.step_s = 0.0

    def __call__(self) -> float:
        self.now_s += self.step_s
        return self.now_s


def test_now_and_then(tmp_path: Path) -> None:
    clock, checkpoint = Clock(), Checkpoint(tmp_path / "p", "key")
    kept = Kept(checkpoint, clock)
    assert kept.arrays == {}
    kept.keep({"a": np.arange(3)})
    clock.now_s = EVERY_S - 1
    kept.keep_now_and_then({"b": np.arange(4)})
    assert set(kept.arrays) == set(checkpoint.load()) == {"a"}
    clock.now_s = EVERY_S
    kept.keep_now_and_then({"b": np.arange(4)})
    assert set(kept.arrays) == set(checkpoint.load()) == {"a", "b"}
    assert set(Kept(checkpoint, clock).arrays) == {"a", "b"}


def test_what_takes_long_to_write_is_written_less_often(tmp_path: Path) -> None:
    clock, checkpoint = Clock(), Checkpoint(tmp_path / "p", "key")
    kept = Kept(checkpoint, clock)
    clock.step_s = 3.0  # so long a writing takes
    kept.keep({"a": np.arange(3)})
    clock.step_s, written_s = 0.0, clock.now_s
    clock.now_s = written_s + 3.0 / SHARE - 1
    kept.keep_now_and_then({"b": np.arange(3)})
    assert "b" not in kept.arrays
    clock.now_s = written_s + 3.0 / SHARE
    kept.keep_now_and_then({"b": np.arange(3)})
    assert "b" in kept.arrays


def test_pieces() -> None:
    pieces = [[1, 2, 3], [4], [5, 6]]
    assert cut(*joined(pieces)) == pieces

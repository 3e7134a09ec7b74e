"""KL against a kept base: as precise as it must be, and no file is believed."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from halo_edge.engine.kl import MAGIC, Divergence, Origin, divergence, open_base, save_base
from halo_edge.engine.windows import scored_positions
from halo_edge.errors import HaloError

VOCAB = 49152
Floats = NDArray[np.float32]


def logits(rows: int, seed: int, spread: float = 3.0) -> Floats:
    return (np.random.default_rng(seed).standard_normal((rows, VOCAB)) * spread).astype(np.float32)


def exact(base: Floats, other: Floats) -> NDArray[np.float64]:
    def log_softmax(rows: Floats) -> NDArray[np.float64]:
        below = rows.astype(np.float64) - rows.max(axis=1, keepdims=True)
        result: NDArray[np.float64] = below - np.log(np.exp(below).sum(axis=1, keepdims=True))
        return result

    p, q = log_softmax(base), log_softmax(other)
    result: NDArray[np.float64] = (np.exp(p) * (p - q)).sum(axis=1)
    return result


def origin(positions_like: int = 8, windows: int = 2, **other: object) -> Origin:
    fields = {
        "model": "a" * 64,
        "text": "b" * 64,
        "context": positions_like,
        "first": 0,
        "windows": windows,
        "vocab": VOCAB,
    }
    return msgspec.convert(fields | other, Origin)


def saved(path: Path, base: Floats, about: Origin) -> Path:
    with save_base(path, about) as writer:
        writer.judge(base)
    return path


@pytest.mark.parametrize("change", [1e-3, 0.014, 0.1, 1.0])
def test_a_kl_is_measured_to_a_percent(tmp_path: Path, change: float) -> None:
    """0.014 makes a KL of 1e-4, 1e-3 one of 5e-7: there the rounding of the base is seen."""
    about = origin()
    n = about.windows * scored_positions(about.context)
    base = logits(n, 1)
    other = base + np.float32(change) * logits(n, 2, spread=1.0)
    path = saved(tmp_path / "base", base, about)
    with open_base(path, about) as meter:
        meter.judge(other[:1])
        meter.judge(other[1:])
    assert meter.kls == pytest.approx(exact(base, other), rel=0.01, abs=4e-8)
    if change == 0.014:
        assert meter.divergence().kl == pytest.approx(1e-4, rel=0.1)


def test_the_same_again_is_nothing(tmp_path: Path) -> None:
    about = origin()
    base = logits(about.windows * scored_positions(about.context), 3)
    with open_base(saved(tmp_path / "base", base, about), about) as meter:
        meter.judge(base)
    found = meter.divergence()
    assert 0 <= found.kl < 5e-8
    assert found.same_top == 1
    assert found.positions == len(base)


def test_another_top_token_is_counted(tmp_path: Path) -> None:
    about = origin(windows=1)
    base = logits(scored_positions(about.context), 4)
    other = base.copy()
    other[0, 17] = other[0].max() + 1
    with open_base(saved(tmp_path / "base", base, about), about) as meter:
        meter.judge(other)
    assert meter.same_top == len(base) - 1


def test_impossible_tokens_do_no_harm() -> None:
    """Some models give tokens that nothing was trained for a logit of -inf or nearly."""
    row = logits(1, 5)[0]
    row[100:200] = -np.inf
    row[200:300] = -1e30
    levels = np.rint(np.minimum((row.max() - row) / (32 / 65535), 65535)).astype(np.uint16)
    shifted = row.copy()
    shifted[:100] += 1
    some = exact(row[None, 300:], shifted[None, 300:])[0]
    assert divergence(levels, row) < 5e-8
    assert divergence(levels[300:], shifted[300:]) == pytest.approx(some, abs=1e-7)


@given(st.lists(st.floats(-40, 40, width=32), min_size=2, max_size=50), st.integers(0, 2**32 - 1))
@settings(max_examples=50)
def test_a_kl_is_never_negative(row: list[float], seed: int) -> None:
    base = np.array(row, np.float32)
    other = np.random.default_rng(seed).standard_normal(len(row)).astype(np.float32)
    levels = np.rint(np.minimum((base.max() - base) / (32 / 65535), 65535)).astype(np.uint16)
    assert divergence(levels, other) >= 0


def test_divergence_of_positions() -> None:
    found = Divergence.of(np.array([0.0] * 98 + [1.0, 1.0]), 95)
    assert found.kl == pytest.approx(0.02)
    assert found.stderr == pytest.approx(0.0141, abs=1e-4)
    assert found.p99 == pytest.approx(1.0)
    assert found.same_top == 0.95
    with pytest.raises(ValueError, match="nothing"):
        Divergence.of(np.array([]), 0)


def test_what_was_not_finished_is_no_base(tmp_path: Path) -> None:
    with pytest.raises(KeyError), save_base(tmp_path / "base", origin()) as writer:
        writer.judge(logits(1, 6))
        raise KeyError
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(HaloError, match="cannot write"), save_base(tmp_path / "no" / "x", origin()):
        pass


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({"model": "c" * 64}, "another model"),
        ({"text": "c" * 64}, "another text"),
        ({"context": 16}, "windows of 8 tokens"),
        ({"first": 3}, "from window 0"),
        ({"windows": 3}, "give --chunks 2"),
    ],
)
def test_a_base_of_something_else(tmp_path: Path, other: dict[str, object], words: str) -> None:
    about = origin()
    path = saved(tmp_path / "base", logits(6, 7), about)
    with pytest.raises(HaloError, match=words), open_base(path, origin(**other)):  # type: ignore[arg-type]
        pass


def test_more_positions_than_the_base_has(tmp_path: Path) -> None:
    about = origin()
    path = saved(tmp_path / "base", logits(6, 8), about)
    with open_base(path, about) as meter, pytest.raises(HaloError, match="ends before"):
        meter.judge(logits(7, 8))


def damaged(header: bytes) -> bytes:
    return MAGIC + struct.pack("<I", len(header)) + header


@pytest.mark.parametrize(
    "damage",
    [
        lambda whole: b"",
        lambda whole: whole[:10],
        lambda whole: b"GGUF" + whole[4:],
        lambda whole: whole[:-1],
        lambda whole: whole + b"x",
        lambda whole: whole.replace(b'"windows":2', b'"windows":9'),
        lambda whole: whole.replace(b'"windows":2', b'"windows":0'),
        lambda whole: whole.replace(b'"vocab":', b'"vocub":'),
        lambda whole: whole[:8] + b"\xff\xff\xff\xff" + whole[12:],
        lambda whole: damaged(b"{}"),
        lambda whole: damaged(b"\xff"),
        lambda whole: damaged(b"[" * 4096),
    ],
)
def test_damaged_files(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    about = origin()
    path = saved(tmp_path / "base", logits(6, 9), about)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(HaloError, match="was not made by --save-logits"), open_base(path, about):
        pass
    with pytest.raises(HaloError, match="cannot read"), open_base(tmp_path / "none", about):
        pass

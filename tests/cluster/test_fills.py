"""Fills: the product is right, and whatever a worker sends, what is kept is sound."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from gguf import GGMLQuantizationType
from gguf.quants import dequantize
from numpy.typing import NDArray

from halo_edge.cluster import control, fill_fetch
from halo_edge.cluster.fill_compute import HeldFill, as_f16, compute_fills, regression_nbytes
from halo_edge.cluster.fill_fetch import fetch_fills, packed_regression
from halo_edge.cluster.shard_cache import PIECE_BYTES
from halo_edge.compute.runtime import Runtime
from halo_edge.compute.weights import Matrix
from halo_edge.errors import HaloError
from halo_edge.groups.ffn_source import FfnSource
from halo_edge.groups.partition import tiles
from halo_edge.groups.profile import Profile
from halo_edge.model.gguf_file import GgufFile
from halo_edge.sync.ids import DeviceId

NEURONS = range(128, 320)
WORKER = {DeviceId(1): "w"}


def dequantised(matrix: Matrix) -> NDArray[np.float32]:
    found = dequantize(matrix.bytes_2d(), GGMLQuantizationType(matrix.ggml_type))
    return np.asarray(found, np.float32)


@pytest.mark.parametrize("repack", [True, False])
def test_the_product(
    tiny_model: Path, random_profile: Callable[..., Profile], repack: bool
) -> None:
    profile, gguf = random_profile(tiny_model), GgufFile.open(tiny_model)
    source = FfnSource(gguf, [layer.permutation for layer in profile.layers])
    weights = [source.cuts(layer, tiles(NEURONS)) for layer in range(3)]
    blob = packed_regression(profile.layers, NEURONS)
    assert blob.nbytes == regression_nbytes(weights, 5) == 3 * 5 * len(NEURONS) * 2
    found = compute_fills(Runtime(1, repack=repack), weights, blob, 5, 128)
    fills = found.view(np.float16).astype(np.float32).reshape(3, 128, 5)
    for fill, parts, layer in zip(fills, weights, profile.layers, strict=True):
        down = np.concatenate([dequantised(part.down) for part in parts], axis=1)
        exact = down @ layer.regression[NEURONS.start : NEURONS.stop]
        assert np.sqrt(np.mean((fill - exact) ** 2) / np.mean(exact**2)) < 0.02


def test_layers_without_a_shard_are_zero(
    tiny_model: Path, random_profile: Callable[..., Profile]
) -> None:
    source = FfnSource(GgufFile.open(tiny_model))
    weights = [[], source.cuts(1, tiles(NEURONS)), []]
    blob = packed_regression(random_profile(tiny_model).layers[1:2], NEURONS)
    assert blob.nbytes == regression_nbytes(weights, 5)
    found = compute_fills(Runtime(1), weights, blob, 5, 128).view(np.float16).reshape(3, -1)
    assert not found[0].any()
    assert found[1].any()
    assert not found[2].any()


def test_no_unbounded_allocation() -> None:
    with pytest.raises(HaloError, match="too large"):
        compute_fills(Runtime(1), [[]] * 1024, np.empty(0, np.uint8), 1025, 1 << 20)


def test_half_precision_without_infinities() -> None:
    values = as_f16(np.array([1e6, -1e9, 1.0], np.float32))
    np.testing.assert_array_equal(values, np.array([65504, -65504, 1], np.float16))


def test_held_until_the_last_piece_is_handed_out() -> None:
    data = np.random.default_rng(0).integers(0, 256, PIECE_BYTES + 10).astype(np.uint8)
    held = HeldFill(data)
    first = held.piece(0, 1 << 40)
    assert len(first) == PIECE_BYTES
    assert first + held.piece(PIECE_BYTES, data.nbytes) == data.tobytes()
    with pytest.raises(HaloError, match="fetched already"):
        held.piece(0, 10)
    with pytest.raises(HaloError, match="no fill"):
        HeldFill(None).piece(0, 10)


SHAPE = (2, 300_000, 2)  # more than one piece


def fetched(monkeypatch: pytest.MonkeyPatch, piece: Callable[[int, int], bytes]) -> np.ndarray:
    def ask(session: object, key: str, question: bytes, timeout_s: float) -> bytes:
        wanted = json.loads(question)
        assert (key, wanted["session"]) == ("halo/c/worker/w/fill", "s")
        return piece(wanted["start"], wanted["stop"])

    monkeypatch.setattr(control, "ask", ask)
    return fetch_fills(None, "c", "s", WORKER, SHAPE)[DeviceId(1)]  # type: ignore[arg-type]


def test_fetched_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(0).standard_normal(SHAPE).astype(np.float16)
    held = HeldFill(values.reshape(-1).view(np.uint8))
    np.testing.assert_array_equal(fetched(monkeypatch, held.piece), values)
    assert fill_fetch.fetch_fills(None, "c", "s", {}, SHAPE) == {}  # type: ignore[arg-type]


def test_who_does_not_answer_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """Over a bad link, after half of it."""
    values = np.ones(SHAPE, np.float16)
    held = HeldFill(values.reshape(-1).view(np.uint8))

    def ask(session: object, key: str, question: bytes, timeout_s: float) -> bytes:
        wanted = json.loads(question)
        if "/bad/" in key and wanted["start"] > values.nbytes // 2:
            raise control.NoAnswerError("no answer")
        return held.piece(wanted["start"], wanted["stop"])

    monkeypatch.setattr(control, "ask", ask)
    workers = {DeviceId(1): "bad", DeviceId(2): "good"}
    found = fill_fetch.fetch_fills(None, "c", "s", workers, SHAPE)  # type: ignore[arg-type]
    assert list(found) == [2]
    np.testing.assert_array_equal(found[DeviceId(2)], values)


@pytest.mark.parametrize(
    ("piece", "message"),
    [
        (lambda start, stop: b"", "too short or long"),
        (lambda start, stop: bytes(stop - start + 1), "too short or long"),
        (lambda start, stop: b"\x00\x7c" * ((stop - start) // 2), "not finite"),
        (lambda start, stop: b"\xff\xff" * ((stop - start) // 2), "not finite"),
    ],
)
def test_unsound_fills_are_refused(
    monkeypatch: pytest.MonkeyPatch, piece: Callable[[int, int], bytes], message: str
) -> None:
    with pytest.raises(HaloError, match=f"worker w sent .*{message}"):
        fetched(monkeypatch, piece)

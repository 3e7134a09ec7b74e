"""What is begun ahead: read and repacked once, in order, and left where it would do harm."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

import ggml
import pytest

from halo_edge.cluster import ahead, root_memory
from halo_edge.cluster.root_memory import RootMemory
from halo_edge.compute.ffn import FfnWeights
from halo_edge.compute.repack import WeightStore
from halo_edge.engine.forward import Rows
from halo_edge.engine.kv_cells import SequenceId
from halo_edge.engine.load import load
from halo_edge.errors import HaloError


def test_what_was_not_begun_is_left() -> None:
    begun, go, done = threading.Event(), threading.Event(), []

    def first() -> None:
        begun.set()
        go.wait(10)
        done.append(1)

    with ahead.one_by_one() as pool:
        pool.submit(first)
        left = pool.submit(done.append, 2)
        left.add_done_callback(lambda _: go.set())
        assert begun.wait(10)
    assert done == [1] and left.cancelled()


@pytest.fixture
def advised(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    pieces: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "posix_fadvise", lambda _, start, n, advice: pieces.append((start, n)))
    return pieces


def read(path: Path) -> None:
    with ahead.one_by_one() as pool:
        ahead.read(pool, path, RootMemory())
        pool.submit(lambda: None).result()


def test_a_file_is_read_in_pieces(
    tmp_path: Path, advised: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(RootMemory, "has_room", lambda *_: True)
    path = tmp_path / "file"
    path.write_bytes(bytes(ahead.PIECE_BYTES + 1))
    read(path)
    assert advised == [(0, ahead.PIECE_BYTES), (ahead.PIECE_BYTES, ahead.PIECE_BYTES)]


def test_a_file_is_not_read_where_there_is_no_room(
    tmp_path: Path, advised: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(100))
    monkeypatch.setattr(root_memory, "available_bytes", lambda: (199, 1))
    read(path)
    monkeypatch.setattr(root_memory, "available_bytes", lambda: (1 << 40, 1 << 60))  # a limit
    read(path)
    monkeypatch.setattr(root_memory, "available_bytes", lambda: None)
    read(path)
    read(tmp_path / "missing")
    assert not advised


@pytest.mark.parametrize("quantization", ["q4_0", "f32"])
def test_a_step_repacks_nothing_any_more(
    make_model: Any, quantization: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor does it copy: the keys are those that its graphs ask for."""
    model = load(make_model(quantization=quantization), threads=1)
    with ahead.one_by_one() as pool:
        ahead.repack_attention(pool, model)
        layers = range(model.params.n_layers)
        ffn = [FfnWeights.from_gguf(model.gguf, layer) for layer in layers]
        ahead.repack_ffn(pool, model.runtime.weights, ffn)
        pool.submit(lambda: None).result()

    def never(*_: object) -> None:
        raise AssertionError("repacked again")

    monkeypatch.setattr(ggml, "ggml_backend_buft_alloc_buffer", never)
    rows = Rows(SequenceId(0), [1, 2, 3], 0, 1)
    assert len(model.forward.step([rows], model.local_ffn())) == 1


def test_a_file_without_attention(make_model: Any) -> None:
    model = load(make_model(), threads=1)
    del model.gguf.tensors["blk.0.attn_q.weight"]
    with ahead.one_by_one() as pool, pytest.raises(HaloError, match="has no tensor"):
        ahead.repack_attention(pool, model)


def test_two_threads_repack_a_matrix_once(make_model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    gguf = load(make_model(quantization="q4_0", hidden=256, n_layers=1), threads=1).gguf
    matrix = FfnWeights.from_gguf(gguf, 0).up
    made, allocate = [], ggml.ggml_backend_buft_alloc_buffer
    both = threading.Barrier(2)

    def counted(*args: object) -> object:
        made.append(args)
        return allocate(*args)

    monkeypatch.setattr(ggml, "ggml_backend_buft_alloc_buffer", counted)
    store, found = WeightStore(), []

    def ask() -> None:
        both.wait(10)
        found.append(store.place(matrix))

    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1 and found[0] is found[1]

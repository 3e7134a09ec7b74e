"""How many cells of the KV cache a model gets."""

from __future__ import annotations

from pathlib import Path

import pytest

from halo_edge.engine.load import MAX_CONTEXTS, kv_cells, load
from halo_edge.model.gguf_file import GgufFile
from halo_edge.model.hparams import HyperParameters


@pytest.mark.parametrize(
    ("kv_bytes", "cells"),
    [(0, 512), (512 * 768, 512), (1000 * 768, 1000), (1 << 40, 512 * MAX_CONTEXTS)],
)
def test_cells(tiny_model: Path, kv_bytes: int, cells: int) -> None:
    """A cell of the tiny model has keys and values of 2 heads of 32 in 3 layers, in f16."""
    params = HyperParameters.from_gguf(GgufFile.open(tiny_model))
    assert kv_cells(params, 512, kv_bytes) == cells


def test_one_context_unless_asked_for_more(tiny_model: Path) -> None:
    assert len(load(tiny_model, threads=1, context=256).forward.cells) == 256
    assert len(load(tiny_model, threads=1, context=256, kv_bytes=1 << 30).forward.cells) == 2048

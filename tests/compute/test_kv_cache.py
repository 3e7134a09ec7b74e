"""Sizes of the KV cache, and windows of it."""

from __future__ import annotations

import numpy as np
import pytest

from halo_edge.compute.kv_cache import KvCache


@pytest.mark.parametrize(("asked", "cells"), [(1, 32), (32, 32), (33, 64), (700, 704)])
def test_cells_make_whole_windows(asked: int, cells: int) -> None:
    cache = KvCache(3, asked, 40)
    assert cache.cells == cells
    assert [k.shape for k in cache.keys] == [v.shape for v in cache.values] == [(cells, 40)] * 3
    assert cache.keys[0].dtype == np.float16


@pytest.mark.parametrize(
    ("span", "window"),
    [
        (range(0, 1), range(0, 32)),
        (range(5, 37), range(5, 37)),
        (range(5, 38), range(5, 69)),
        (range(120, 128), range(96, 128)),  # there are no more
        (range(0, 128), range(0, 128)),
    ],
)
def test_window(span: range, window: range) -> None:
    assert KvCache(0, 128, 1).window(span) == window


def test_copy() -> None:
    cache = KvCache(2, 256, 4)
    for i, storage in enumerate((*cache.keys, *cache.values)):
        storage[:] = np.arange(256)[:, None] + 300 * i
    cache.copy([3, 9], [200, 100])
    for i, storage in enumerate((*cache.keys, *cache.values)):
        assert storage[[200, 100, 3, 9, 201], 0].tolist() == [
            cell + 300 * i for cell in (3, 9, 3, 9, 201)
        ]

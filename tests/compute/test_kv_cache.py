"""Sizes of the KV cache and its buckets."""

from __future__ import annotations

import numpy as np
import pytest

from halo_edge.compute.kv_cache import SMALLEST_BUCKET, KvCache


@pytest.mark.parametrize(("asked", "cells"), [(1, 256), (256, 256), (257, 512), (700, 768)])
def test_cells_are_whole_buckets(asked: int, cells: int) -> None:
    cache = KvCache(3, asked, 40)
    assert cache.cells == cells
    assert [k.shape for k in cache.keys] == [v.shape for v in cache.values] == [(cells, 40)] * 3
    assert cache.keys[0].dtype == np.float16


@pytest.mark.parametrize(
    ("used", "bucket"),
    [(1, 256), (256, 256), (257, 512), (512, 512), (513, 1024), (1025, 1280), (1280, 1280)],
)
def test_bucket(used: int, bucket: int) -> None:
    """Doubled as needed, and never more than there is."""
    cache = KvCache(0, 1280, 1)
    assert cache.bucket(used) == bucket
    assert SMALLEST_BUCKET == 256


def test_copy() -> None:
    cache = KvCache(2, 256, 4)
    for i, storage in enumerate((*cache.keys, *cache.values)):
        storage[:] = np.arange(256)[:, None] + 300 * i
    cache.copy([3, 9], [200, 100])
    for i, storage in enumerate((*cache.keys, *cache.values)):
        assert storage[[200, 100, 3, 9, 201], 0].tolist() == [
            cell + 300 * i for cell in (3, 9, 3, 9, 201)
        ]

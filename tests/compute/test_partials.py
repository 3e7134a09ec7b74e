"""The sum of the root's own partial and the workers'."""

from __future__ import annotations

import numpy as np
import pytest

from halo_edge.compute.ffn import MAX_GRAPH_SETS
from halo_edge.compute.partials import PartialSum
from halo_edge.compute.rows import Rows
from halo_edge.compute.runtime import Runtime
from halo_edge.compute.wire import WireCodec, WireFormat

WIDTH = 64


@pytest.mark.parametrize("wire", WireFormat)
@pytest.mark.parametrize("workers", [1, 2, 6, 31])
def test_sum(wire: WireFormat, workers: int) -> None:
    """More token counts than graphs are kept, again and again, over memory that stays."""
    rng = np.random.default_rng(0)
    rows = MAX_GRAPH_SETS + 3
    codec = WireCodec(wire, WIDTH)
    partials = np.zeros((workers, rows, WIDTH), np.float32)
    encoders = [codec.encoder(partial) for partial in partials]
    received = [bytearray(rows * codec.row_bytes) for _ in range(workers)]
    total = np.zeros((rows, WIDTH), np.float32)
    sums = PartialSum(
        Runtime(1), [codec.rows(memoryview(one)) for one in received], Rows.f32(total)
    )
    for tokens in (*range(1, rows + 1), 1, 2):
        partials[:] = rng.integers(-127, 128, partials.shape)
        partials[:, :, ::32] = 127  # so that Q8_0 is exact
        for encoder, memory in zip(encoders, received, strict=True):
            memory[: tokens * codec.row_bytes] = encoder.encode(tokens)
        total[:] = own = rng.integers(-9, 10, total.shape).astype(np.float32)
        sums.add(tokens)
        assert np.array_equal(total[:tokens], (own + partials.sum(axis=0))[:tokens])
        assert np.array_equal(total[tokens:], own[tokens:])

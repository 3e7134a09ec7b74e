from __future__ import annotations

from bisect import bisect_left
from dataclasses import replace
from typing import Any

import pytest

from halo_edge.errors import HaloError
from halo_edge.sync.chunks import ChunkGrid
from halo_edge.sync.datagram import WANT_BYTES
from halo_edge.sync.errors import BadLayout
from halo_edge.sync.layout import K_MAX_MATRIX_BYTES, RoundLayout

LLAMA_2_7B = RoundLayout(
    n_layers=32,
    max_tokens=128,
    x_row_bytes=4096 // 32 * 34,
    partial_row_bytes=4096 // 32 * 34,
    x_block_bytes=34,
    partial_block_bytes=34,
    max_payload=1200,
    window=64,
)


def test_the_grids_are_those_of_the_layout() -> None:
    layout = replace(LLAMA_2_7B, partial_row_bytes=34)
    assert layout.x_grid().n_chunks(2) == 8
    assert layout.partial_grid().n_chunks(36) == 2


@pytest.mark.parametrize(
    "change",
    [
        {"n_layers": 0},
        {"max_tokens": -1},
        {"max_tokens": 65536},
        {"x_row_bytes": 100},  # not whole blocks
        {"partial_row_bytes": 0},
        {"x_block_bytes": 68_000, "x_row_bytes": 68_000},
        {"max_payload": 65_500},  # with the rest of the datagram, more than UDP carries
        {"max_payload": 20},  # less than a block
        {"window": 0},
        {"window": 1025},
        {"max_tokens": 65535, "x_row_bytes": 34 << 14},  # 34 GB
        {"max_tokens": 65535},  # more chunks than a WANT's bitmap or an index can hold
        {"n_layers": True},
        {"window": 1.0},
        {"x_row_bytes": "4352"},
    ],
)
def test_sizes_that_do_not_fit_together_are_one_line(change: dict[str, Any]) -> None:
    with pytest.raises(BadLayout) as raised:
        replace(LLAMA_2_7B, **change)
    assert isinstance(raised.value, HaloError)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("row_bytes", [34, 1190, 1224, 2176, 34 * 512])
@pytest.mark.parametrize("max_payload", [100, 1200, 60000])
def test_the_most_tokens_are_as_many_as_a_want_can_speak_of(
    row_bytes: int, max_payload: int
) -> None:
    def fits(max_tokens: int) -> bool:
        try:
            replace(
                LLAMA_2_7B,
                max_tokens=max_tokens,
                x_row_bytes=row_bytes,
                partial_row_bytes=row_bytes,
                max_payload=max_payload,
            )
        except BadLayout:
            return False
        return True

    most = bisect_left(range(1, 1 << 17), True, key=lambda tokens: not fits(tokens))
    assert fits(most) and not fits(most + 1)
    grid = ChunkGrid(most + 1, row_bytes, 34, max_payload)
    chunks = grid.n_chunks(most)
    assert chunks <= 65535 and WANT_BYTES + -(-chunks // 8) <= max_payload
    if most < 65535 and (most + 1) * row_bytes <= K_MAX_MATRIX_BYTES:
        chunks = grid.n_chunks(most + 1)
        assert chunks > 65535 or WANT_BYTES + -(-chunks // 8) > max_payload

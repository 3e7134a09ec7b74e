"""The layout of rounds, from what root and workers agree on: both ends have to make the same."""

from __future__ import annotations

from halo_edge.compute.wire import WireCodec
from halo_edge.sync.layout import RoundLayout


def round_layout(
    x: WireCodec,
    partial: WireCodec,
    *,
    n_layers: int,
    max_tokens: int,
    max_payload: int,
    window: int,
) -> RoundLayout:
    """`max_tokens`: of a round. `max_payload`: bytes of a chunk. `window`: chunks under way."""
    return RoundLayout(
        n_layers=n_layers,
        max_tokens=max_tokens,
        x_row_bytes=x.row_bytes,
        x_block_bytes=x.block_bytes,
        partial_row_bytes=partial.row_bytes,
        partial_block_bytes=partial.block_bytes,
        max_payload=max_payload,
        window=window,
    )

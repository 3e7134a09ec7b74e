from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from halo_edge.sync.chunks import ChunkGrid


@st.composite
def grids(draw: st.DrawFn) -> tuple[ChunkGrid, int, int, int, int]:
    block_bytes = draw(st.sampled_from([1, 2, 34]))
    row_bytes = block_bytes * draw(st.integers(1, 200))
    max_payload = draw(st.integers(block_bytes, 3 * row_bytes + 100))
    max_tokens = draw(st.integers(1, 40))
    grid = ChunkGrid(max_tokens, row_bytes, block_bytes, max_payload)
    return grid, draw(st.integers(1, max_tokens)), row_bytes, block_bytes, max_payload


@given(grids())
def test_the_chunks_are_a_partition_that_cuts_no_block(
    case: tuple[ChunkGrid, int, int, int, int],
) -> None:
    grid, tokens, row_bytes, block_bytes, max_payload = case
    end = 0
    for chunk in range(grid.n_chunks(tokens)):
        start, stop = grid.span(chunk, tokens)
        assert start == end
        assert 0 < stop - start <= max_payload
        assert start % block_bytes == 0
        if row_bytes <= max_payload:
            assert start % row_bytes == 0 and stop % row_bytes == 0  # whole tokens
        else:
            assert start // row_bytes == (stop - 1) // row_bytes  # of one token
        end = stop
    assert end == tokens * row_bytes


@given(grids())
def test_no_chunk_is_there_needlessly(case: tuple[ChunkGrid, int, int, int, int]) -> None:
    grid, tokens, row_bytes, block_bytes, max_payload = case
    if row_bytes <= max_payload:
        assert grid.n_chunks(tokens) == -(-tokens // (max_payload // row_bytes))
    else:
        usable = max_payload // block_bytes * block_bytes
        assert grid.n_chunks(tokens) == tokens * -(-row_bytes // usable)


@given(grids())
def test_pieces_of_a_row_differ_by_at_most_a_block(
    case: tuple[ChunkGrid, int, int, int, int],
) -> None:
    grid, tokens, row_bytes, block_bytes, max_payload = case
    if row_bytes > max_payload:
        sizes = [stop - start for start, stop in map(grid.span, *_all(grid, tokens))]
        assert max(sizes) - min(sizes) <= block_bytes


def _all(grid: ChunkGrid, tokens: int) -> tuple[range, list[int]]:
    chunks = range(grid.n_chunks(tokens))
    return chunks, [tokens] * len(chunks)


@given(grids(), st.integers(0, 0xFFFF), st.integers(0, 2000))
def test_a_chunk_fits_only_with_its_own_index_and_size(
    case: tuple[ChunkGrid, int, int, int, int], chunk: int, nbytes: int
) -> None:
    grid, tokens, *_ = case
    exists = chunk < grid.n_chunks(tokens)
    size = -1
    if exists:
        start, stop = grid.span(chunk, tokens)
        size = stop - start
        assert grid.fits(chunk, tokens, size)
    assert grid.fits(chunk, tokens, nbytes) == (nbytes == size)


@pytest.mark.parametrize(
    ("row_bytes", "tokens", "sizes"),
    [
        (612, 1, [612]),  # SmolLM2-135M in Q8_0
        (612, 2, [612, 612]),
        (2176, 1, [1088, 1088]),  # TinyLlama
        (340, 7, [1020, 1020, 340]),
    ],
)
def test_the_cuts_of_known_models(row_bytes: int, tokens: int, sizes: list[int]) -> None:
    grid = ChunkGrid(128, row_bytes, 34, 1200)
    spans = [grid.span(chunk, tokens) for chunk in range(grid.n_chunks(tokens))]
    assert [stop - start for start, stop in spans] == sizes

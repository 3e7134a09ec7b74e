"""How a matrix of encoded vectors is cut into chunks, one for each datagram.

A round carries row-major byte matrices [tokens, row_bytes]: x one way, a partial the other. Every
chunk is one contiguous range of such a matrix, so that it can be copied in and out at once. This
file knows sizes only, nothing of what the bytes mean nor how they travel.
"""

from __future__ import annotations


class ChunkGrid:
    """The cuts of a matrix [tokens, row_bytes], for any number of tokens up to `max_tokens`.

    A chunk is as many whole rows as fit into `max_payload` bytes. A row that does not fit is cut
    into as few pieces as possible, on block boundaries, as equal as they allow: the time of a
    transfer is that of its largest chunk, not of the number of full ones.

    The cuts of a matrix with fewer tokens are the first cuts of one with more, so one list of
    edges serves them all; only a last chunk of several rows may be shorter.
    """

    __slots__ = ("_pieces", "_rows", "_spans", "edges", "row_bytes")

    def __init__(self, max_tokens: int, row_bytes: int, block_bytes: int, max_payload: int) -> None:
        """`row_bytes` is a multiple of `block_bytes`, and a block fits into `max_payload`."""
        self.row_bytes = row_bytes
        self._rows = max(1, max_payload // row_bytes)  # whole rows in a chunk
        blocks = row_bytes // block_bytes
        self._pieces = -(-blocks // min(blocks, max_payload // block_bytes))  # chunks in a row
        within = [piece * blocks // self._pieces * block_bytes for piece in range(self._pieces)]
        self.edges = [
            row * row_bytes + offset
            for row in range(0, max_tokens, self._rows)
            for offset in within
        ]
        """Where each chunk of a matrix of `max_tokens` begins, in bytes, and where the last ends.
        """
        self.edges.append(max_tokens * row_bytes)
        self._spans: tuple[int, list[tuple[int, int]]] = (0, [])

    def n_chunks(self, tokens: int) -> int:
        """How many chunks a matrix of so many tokens has."""
        return -(-tokens // self._rows) * self._pieces

    def span(self, chunk: int, tokens: int) -> tuple[int, int]:
        """The bytes [start, stop) of the matrix of so many tokens that this chunk carries."""
        return self.edges[chunk], min(self.edges[chunk + 1], tokens * self.row_bytes)

    def spans(self, tokens: int) -> list[tuple[int, int]]:
        """`span` of every chunk of a matrix of so many tokens. Those of the last call are kept."""
        if self._spans[0] != tokens:
            chunks = range(self.n_chunks(tokens))
            self._spans = (tokens, [self.span(chunk, tokens) for chunk in chunks])
        return self._spans[1]

    def fits(self, chunk: int, tokens: int, nbytes: int) -> bool:
        """Whether a matrix of so many tokens has such a chunk, of just so many bytes."""
        if chunk >= self.n_chunks(tokens):
            return False
        start, stop = self.span(chunk, tokens)
        return nbytes == stop - start

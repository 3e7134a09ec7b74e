"""The sizes of a session's rounds, on which the root and its workers agree beforehand.

A worker gets them from the network: whatever passes the checks here cannot make it allocate
more than a bounded amount, nor break an assumption of the rest of the room.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from halo_edge.sync.chunks import ChunkGrid
from halo_edge.sync.datagram import MAX_PLAIN, WANT_BYTES
from halo_edge.sync.errors import BadLayout
from halo_edge.sync.seal import REPLAY_WINDOW

K_MAX_MATRIX_BYTES: Final = 256 << 20  # 128 tokens of f16 take 2 MB in the largest models known
K_MAX_U16: Final = 0xFFFF


@dataclass(frozen=True, slots=True)
class RoundLayout:
    """Sizes of what travels in every round of a session.

    Raises BadLayout where they do not fit together.
    """

    n_layers: int
    max_tokens: int  # the most tokens a round may carry
    x_row_bytes: int  # one token's encoded x
    x_block_bytes: int  # a row is never cut inside a block: 34 bytes for Q8_0, 2 for f16
    partial_row_bytes: int  # one token's encoded partial
    partial_block_bytes: int
    max_payload: int  # bytes of a chunk: 1200 over UDP, some 60000 over TCP
    window: int  # chunks that may be under way to one device, see docs/protocol.md

    def __post_init__(self) -> None:
        for name in self.__slots__:
            value = getattr(self, name)
            if type(value) is not int or value < 1:
                raise BadLayout(f"round layout: {name} is {value!r}, but must be a count from 1")
        for name, most in (
            ("n_layers", K_MAX_U16),
            ("max_tokens", K_MAX_U16),
            ("max_payload", MAX_PLAIN),
            ("window", REPLAY_WINDOW),  # more under way, and late ones would pass for replays
        ):
            if getattr(self, name) > most:
                raise BadLayout(
                    f"round layout: {name} is {getattr(self, name)}, the most is {most}"
                )
        for what in ("x", "partial"):
            row_bytes = getattr(self, f"{what}_row_bytes")
            block_bytes = getattr(self, f"{what}_block_bytes")
            if block_bytes > self.max_payload:
                raise BadLayout(
                    f"round layout: a block of {block_bytes} bytes does not fit into "
                    f"max_payload, {self.max_payload}"
                )
            if row_bytes % block_bytes:
                raise BadLayout(
                    f"round layout: {what}_row_bytes is {row_bytes}, not a multiple of "
                    f"{what}_block_bytes, {block_bytes}"
                )
            if row_bytes * self.max_tokens > K_MAX_MATRIX_BYTES:
                raise BadLayout(
                    f"round layout: {self.max_tokens} rows of {row_bytes} bytes are more than "
                    f"{K_MAX_MATRIX_BYTES}: use a smaller max_tokens"
                )
            # The bitmap of a WANT must fit into a datagram, and a chunk's index into 16 bits.
            most_chunks = min(K_MAX_U16, (self.max_payload - WANT_BYTES) * 8)
            if self._n_chunks(row_bytes, block_bytes) > most_chunks:
                raise BadLayout(
                    f"round layout: {self.max_tokens} rows of {row_bytes} bytes are more than "
                    f"{most_chunks} chunks of {self.max_payload}: use a smaller max_tokens"
                )

    def _n_chunks(self, row_bytes: int, block_bytes: int) -> int:
        """Like ChunkGrid.n_chunks(max_tokens), without building the grid of an unchecked size."""
        if row_bytes <= self.max_payload:
            return -(-self.max_tokens // (self.max_payload // row_bytes))
        usable = self.max_payload // block_bytes * block_bytes
        return self.max_tokens * -(-row_bytes // usable)

    def x_grid(self) -> ChunkGrid:
        """The chunks of x."""
        return ChunkGrid(self.max_tokens, self.x_row_bytes, self.x_block_bytes, self.max_payload)

    def partial_grid(self) -> ChunkGrid:
        """The chunks of a partial."""
        return ChunkGrid(
            self.max_tokens, self.partial_row_bytes, self.partial_block_bytes, self.max_payload
        )

"""The vectors of one step, shared by all graphs of a process and by the network.

One set of buffers serves every number of tokens: a graph for T tokens uses the first T rows.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from halo_edge.compute.context import aligned


class Activations:
    """`hidden`: f32[max_tokens, H], the residual stream; `x`: f32[max_tokens, H], its norm, what
    the FFN reads; `ffn`: f32[max_tokens, H], what the FFN answers."""

    def __init__(self, max_tokens: int, width: int) -> None:
        self.max_tokens = max_tokens
        self.width = width
        self.hidden: NDArray[np.float32] = aligned((max_tokens, width), np.float32)
        self.x: NDArray[np.float32] = aligned((max_tokens, width), np.float32)
        self.ffn: NDArray[np.float32] = aligned((max_tokens, width), np.float32)


class StepInputs:
    """What is to be known about the tokens of a step.

    `tokens`: i32[T], `positions`: i32[T], `sequences`: i64[T] (whose they are; no graph reads it),
    `cells`: i64[T] (where each token's key and value go), `mask`: f16[T, max_kv] (0 where the token
    may look, -inf elsewhere; its first column is the first cell of the token's window, and what is
    beyond that has no meaning). `max_kv`: the cells there are.
    """

    def __init__(self, max_tokens: int, max_kv: int) -> None:
        self.max_kv = max_kv
        self.tokens: NDArray[np.int32] = aligned((max_tokens,), np.int32)
        self.positions: NDArray[np.int32] = aligned((max_tokens,), np.int32)
        self.sequences: NDArray[np.int64] = np.zeros(max_tokens, np.int64)
        self.cells: NDArray[np.int64] = aligned((max_tokens,), np.int64)
        self.mask: NDArray[np.float16] = aligned((max_tokens, max_kv), np.float16)

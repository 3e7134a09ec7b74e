"""What a root's first token needs, begun before it is asked for: beside imports, and while workers
are found.

Who calls this knows that it will be needed; nothing here knows of workers or plans.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from halo_edge.cluster.limits import available_bytes, read_limits
from halo_edge.compute.weights import Matrix
from halo_edge.engine.load import LoadedModel

_ATTENTION: Final = ("attn_q", "attn_k", "attn_v", "attn_output")
_FFN: Final = ("ffn_gate", "ffn_up", "ffn_down")

# The kernel reads no more at a time, whatever it is asked for: as much as the disk reads ahead.
PIECE_BYTES: Final = 1 << 20
# Of the memory that is left, a file may take so much.
FREE_SHARE: Final = 0.5


@contextmanager
def one_by_one() -> Iterator[ThreadPoolExecutor]:
    """A thread that does what it is given in order. At the end, what it has not begun is left."""
    pool = ThreadPoolExecutor(1)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def read(pool: ThreadPoolExecutor, path: Path) -> None:
    """Have the kernel read a file that is needed whole, unless it would take more than half of the
    memory that is left, or a control group limits it: then others' pages, and its own first, would
    go for it."""
    try:
        nbytes = path.stat().st_size
    except OSError:  # whoever opens it will be told
        return
    free, limit = available_bytes(), read_limits().memory_bytes
    if free is None or nbytes > FREE_SHARE * free[0] or (limit is not None and limit < free[1]):
        return

    def piece(start: int) -> None:
        with path.open("rb", buffering=0) as file:
            os.posix_fadvise(file.fileno(), start, PIECE_BYTES, os.POSIX_FADV_WILLNEED)

    for start in range(0, nbytes, PIECE_BYTES):
        pool.submit(piece, start)


def repack_attention(pool: ThreadPoolExecutor, model: LoadedModel) -> None:
    """And the head: what the root computes under every plan, in the order in which a step's graphs
    ask for it. What a graph asks for earlier it repacks itself; what is under way it waits for.

    Raises `HaloError` for a file that lacks a matrix.
    """
    tied = "output.weight" not in model.gguf.tensors
    _repack(pool, model, _ATTENTION)
    weights = Matrix.from_gguf(model.gguf, "token_embd.weight" if tied else "output.weight")
    pool.submit(model.runtime.weights.place, weights)


def repack_ffn(pool: ThreadPoolExecutor, model: LoadedModel) -> None:
    """All of it, where nobody else computes any. See `repack_attention`."""
    _repack(pool, model, _FFN)


def _repack(pool: ThreadPoolExecutor, model: LoadedModel, parts: Sequence[str]) -> None:
    for layer in range(model.params.n_layers):
        for part in parts:
            weights = Matrix.from_gguf(model.gguf, f"blk.{layer}.{part}.weight")
            pool.submit(model.runtime.weights.place, weights)

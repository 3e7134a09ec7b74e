"""What a root's first token needs, begun before it is asked for: beside imports, and while workers
are found.

Who calls this knows that it will be needed; nothing here knows of workers or plans.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from halo_edge.cluster.root_memory import RootMemory
from halo_edge.compute.ffn import FfnWeights
from halo_edge.compute.repack import WeightStore
from halo_edge.compute.weights import Matrix
from halo_edge.engine.load import LoadedModel

_ATTENTION: Final = ("attn_q", "attn_k", "attn_v", "attn_output")
# The kernel reads no more at a time, whatever it is asked for: as much as the disk reads ahead.
PIECE_BYTES: Final = 1 << 20


@contextmanager
def one_by_one() -> Iterator[ThreadPoolExecutor]:
    """A thread that does what it is given in order. At the end, what it has not begun is left."""
    pool = ThreadPoolExecutor(1)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def read(pool: ThreadPoolExecutor, path: Path, memory: RootMemory) -> None:
    """Have the kernel read a file that is needed whole, where there is room for it."""
    try:
        nbytes = path.stat().st_size
    except OSError:  # whoever opens it will be told
        return
    if not memory.has_room(nbytes):
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
    gguf, layers = model.gguf, range(model.params.n_layers)
    names = [f"blk.{layer}.{part}.weight" for layer in layers for part in _ATTENTION]
    names.append("output.weight" if "output.weight" in gguf.tensors else "token_embd.weight")
    for name in names:
        pool.submit(model.runtime.weights.place, Matrix.from_gguf(gguf, name))


def repack_ffn(pool: ThreadPoolExecutor, store: WeightStore, layers: Iterable[FfnWeights]) -> None:
    """See `repack_attention`."""
    for weights in layers:
        for matrix in (weights.gate, weights.up, weights.down):
            pool.submit(store.place, matrix)

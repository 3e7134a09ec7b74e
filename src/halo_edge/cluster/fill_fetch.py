"""The fills' matrices C_d = D_d R_d, fetched once from the worker that holds D_d and made them
(`fill_compute`), from the R_d that the root handed out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import numpy as np
import zenoh
from numpy.typing import NDArray

from halo_edge.cluster import control
from halo_edge.cluster.fill_compute import as_f16
from halo_edge.cluster.messages import FillPiece, encode
from halo_edge.cluster.shard_cache import PIECE_BYTES
from halo_edge.errors import HaloError
from halo_edge.groups.profile import LayerProfile
from halo_edge.sync.ids import DeviceId

Halves = NDArray[np.float16]

# Over TCP, which carries some ten kilobytes a second where one in seven packets is lost: the plan
# that waits for fills does not wait for so long.
FILL_PIECE_BYTES: Final = PIECE_BYTES // 4
FILL_TIMEOUT_S: Final = 20.0
MAX_FETCHED_AT_ONCE: Final = 8


def packed_regression(layers: Sequence[LayerProfile], neurons: range) -> NDArray[np.uint8]:
    """R_d of all layers as it travels: f16[L, K + 1, neurons], transposed for the multiplication.

    Half precision has 11 bits, and the product is made with 8.
    """
    parts = [layer.regression[neurons.start : neurons.stop].T for layer in layers]
    return as_f16(np.stack(parts)).reshape(-1).view(np.uint8)


def fetch_fills(
    session: zenoh.Session,
    cluster: str,
    root_session: str,
    workers: Mapping[DeviceId, str],
    shape: tuple[int, int, int],
) -> dict[DeviceId, Halves]:
    """The matrices of `workers`, by name, each f16 of `shape`, [L, H, K + 1], as they travel; but
    for those who do not answer in time.

    Raises `HaloError` for one that answers with something else.
    """

    def fetch(worker: str) -> Halves | None:
        key = control.worker_key(cluster, worker) + "/fill"

        def ask(start: int, stop: int) -> bytes:
            question = encode(FillPiece(root_session, start, stop))
            return control.ask(session, key, question, FILL_TIMEOUT_S)

        try:
            return _joined(ask, worker, shape)
        except control.NoAnswerError:
            return None

    if not workers:
        return {}
    with ThreadPoolExecutor(min(len(workers), MAX_FETCHED_AT_ONCE)) as pool:
        fills = zip(workers, pool.map(fetch, workers.values()), strict=True)
        return {device: fill for device, fill in fills if fill is not None}


def _joined(ask: Callable[[int, int], bytes], worker: str, shape: tuple[int, int, int]) -> Halves:
    data = np.empty(2 * int(np.prod(shape)), np.uint8)
    for start in range(0, data.nbytes, FILL_PIECE_BYTES):
        stop = min(start + FILL_PIECE_BYTES, data.nbytes)
        piece = ask(start, stop)
        if len(piece) != stop - start:
            raise HaloError(f"worker {worker} sent a part of its fill that is too short or long")
        data[start:stop] = np.frombuffer(piece, np.uint8)
    fill = data.view(np.float16).reshape(shape)
    if not np.isfinite(fill).all():
        raise HaloError(f"worker {worker} sent a fill that is not finite; is its shard sound?")
    return fill

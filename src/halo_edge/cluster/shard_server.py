"""The root's shards: what each worker is to hold, and the bytes for whoever asks.

Shards are packed when their hash is needed and again when somebody asks, so that the root holds
few of them at a time.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

import numpy as np
import zenoh
from numpy.typing import NDArray

from halo_edge.cluster import control
from halo_edge.cluster.messages import LayerShard, ShardPiece, decode
from halo_edge.cluster.shard_cache import PIECE_BYTES
from halo_edge.compute.ffn import FfnWeights
from halo_edge.errors import HaloError
from halo_edge.groups.partition import Partition
from halo_edge.groups.shard import content_hash, cut, pack, spec_of
from halo_edge.model.gguf_file import GgufFile

# Packed shards kept for the next piece: workers fetch theirs at the same time.
MAX_PACKED: Final = 4


class ShardServer:
    """Cuts shards out of a model file, and answers for them under a session's key."""

    def __init__(self, gguf: GgufFile, n_layers: int, partition: Partition) -> None:
        self._gguf = gguf
        self._n_layers = n_layers
        self._partition = partition
        self._known: dict[str, tuple[int, range]] = {}
        self._packing = threading.Lock()
        self._packed: OrderedDict[str, NDArray[np.uint8]] = OrderedDict()

    def shards(self, groups: range) -> list[LayerShard | None]:
        """Describe the shard of every layer for a device that holds `groups`."""
        neurons = self._partition.neuron_range(groups)
        if not neurons:
            return [None] * self._n_layers
        described: list[LayerShard | None] = []
        for layer in range(self._n_layers):
            weights = cut(self._gguf, layer, neurons)
            sha256 = content_hash(pack(weights))
            self._known[sha256] = (layer, neurons)
            spec = spec_of(weights)
            described.append(
                LayerShard(spec.neurons, spec.gate_type, spec.up_type, spec.down_type, sha256)
            )
        return described

    def own(self, groups: range) -> list[FfnWeights | None]:
        """The root's own shard of every layer."""
        neurons = self._partition.neuron_range(groups)
        if not neurons:
            return [None] * self._n_layers
        return [cut(self._gguf, layer, neurons) for layer in range(self._n_layers)]

    def serve(
        self, session: zenoh.Session, cluster: str, name: str, progress: Callable[[int], None]
    ) -> None:
        """Answer questions for shards; `progress` is told the bytes of each."""

        def on_query(query: zenoh.Query) -> None:
            with query:
                sha256 = str(query.key_expr).rsplit("/", 1)[-1]
                try:
                    question = query.payload.to_bytes() if query.payload is not None else b""
                    wanted = decode(question, ShardPiece, "a worker")
                    piece = self._piece(sha256, wanted)
                except HaloError as error:
                    query.reply_err(str(error).encode())
                    return
                query.reply(query.key_expr, piece)
                progress(len(piece))

        session.declare_queryable(control.shard_key(cluster, name, "*"), on_query)

    def _piece(self, sha256: str, wanted: ShardPiece) -> bytes:
        """Raises `HaloError` for a shard that this session does not have."""
        if sha256 not in self._known:
            raise HaloError("no such shard in this session")
        with self._packing:
            packed = self._packed.get(sha256)
            if packed is None:
                packed = self._packed[sha256] = pack(cut(self._gguf, *self._known[sha256]))
                if len(self._packed) > MAX_PACKED:
                    self._packed.popitem(last=False)
            self._packed.move_to_end(sha256)
        return packed[wanted.start : min(wanted.stop, wanted.start + PIECE_BYTES)].tobytes()

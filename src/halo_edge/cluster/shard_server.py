"""The root's shards: what each worker is to hold, and the bytes for whoever asks.

Shards are packed when their hash is needed and again when somebody asks, so the root never holds
more than one.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

import zenoh

from halo_edge.cluster import control
from halo_edge.cluster.messages import LayerShard
from halo_edge.compute.ffn import FfnWeights
from halo_edge.groups.partition import Partition
from halo_edge.groups.shard import content_hash, cut, pack, spec_of
from halo_edge.model.gguf_file import GgufFile


class ShardServer:
    """Cuts shards out of a model file, and answers for them under a session's key."""

    def __init__(self, gguf: GgufFile, n_layers: int, partition: Partition) -> None:
        self._gguf = gguf
        self._n_layers = n_layers
        self._partition = partition
        self._known: dict[str, tuple[int, range]] = {}
        self._packing = threading.Lock()  # one shard in memory at a time
        self.served_bytes = 0

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
                known = self._known.get(str(query.key_expr).rsplit("/", 1)[-1])
                if known is None:
                    query.reply_err(b"no such shard in this session")
                    return
                with self._packing:
                    packed = pack(cut(self._gguf, *known))
                    query.reply(query.key_expr, packed.tobytes())
                    self.served_bytes += packed.nbytes
                progress(packed.nbytes)

        session.declare_queryable(control.shard_key(cluster, name, "*"), on_query)

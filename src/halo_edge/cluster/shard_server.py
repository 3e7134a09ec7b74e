"""Answers workers that fetch their shards from the root."""

from __future__ import annotations

from collections.abc import Callable

import zenoh

from halo_edge.cluster import control
from halo_edge.cluster.messages import ShardPiece, decode
from halo_edge.cluster.shard_cache import PIECE_BYTES
from halo_edge.cluster.shard_store import ShardStore
from halo_edge.errors import HaloError


def serve_shards(
    store: ShardStore,
    session: zenoh.Session,
    cluster: str,
    name: str,
    progress: Callable[[int], None],
) -> None:
    """Answer questions for pieces of what is in `store` under the keys of the root's session
    `name`; `progress` is told the bytes of each."""

    def on_query(query: zenoh.Query) -> None:
        with query:
            sha256 = str(query.key_expr).rsplit("/", 1)[-1]
            try:
                question = query.payload.to_bytes() if query.payload is not None else b""
                wanted = decode(question, ShardPiece, "a worker")
                packed = store.packed(sha256)
            except HaloError as error:
                query.reply_err(str(error).encode())
                return
            stop = min(wanted.stop, wanted.start + PIECE_BYTES)
            piece = packed[wanted.start : stop].tobytes()
            query.reply(query.key_expr, piece)
            progress(len(piece))

    session.declare_queryable(control.shard_key(cluster, name, "*"), on_query)

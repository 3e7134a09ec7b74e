"""`python -m halo_edge.bench.probe JSON`: the root of an experiment, inside a lab.

It opens one session with the lab's workers and decodes when it is told to, until its standard input
ends: the weights are loaded and the shards sent once for all configurations of the links.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import BinaryIO

import msgspec

from halo_edge.bench.decoding import Decoder
from halo_edge.bench.probe_messages import (
    Decode,
    Decoded,
    Done,
    Failed,
    Prepare,
    ProbeStart,
    Reply,
    Request,
    Times,
)
from halo_edge.cluster.control import ControlOptions
from halo_edge.cluster.root import RoundsOptions
from halo_edge.cluster.session import Session, SessionOptions, open_session
from halo_edge.cluster.trace_summary import token_times
from halo_edge.engine.trace import Recorder, Tracer
from halo_edge.errors import HaloError


def main() -> None:
    start = msgspec.json.decode(sys.argv[1], type=ProbeStart)
    # Only replies go where they are read, whatever a library may print.
    replies = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)
    try:
        with open_session(_session(start)) as session:
            _serve(session, start.context, sys.stdin.buffer, replies)
    except HaloError as error:
        _say(replies, Failed(str(error)))
        sys.exit(1)


def _session(start: ProbeStart) -> SessionOptions:
    workers = int(os.environ.get("HALO_WORKERS", "0"))
    control = None
    if workers:
        control = ControlOptions(
            os.environ["HALO_CLUSTER"],
            connect=os.environ["HALO_CONNECT"].split(),
            multicast=False,
        )
    return SessionOptions(
        Path(start.model),
        int(os.environ.get("HALO_THREADS", "1")),
        start.context,
        workers,
        control,
        RoundsOptions(transport=start.transport, stall_timeout_s=start.stall_timeout_s),
        Recorder() if start.trace else Tracer(),
    )


def _serve(session: Session, context: int, requests: BinaryIO, replies: BinaryIO) -> None:
    decoder = Decoder(session, context)
    done = Done(session.model.params.n_layers)
    _say(replies, done)
    for line in requests:
        request: Request = msgspec.json.decode(line, type=Request)
        if isinstance(request, Prepare):
            decoder.prepare()
            _say(replies, done)
        elif isinstance(request, Decode):
            begun_s = time.monotonic()
            _say(replies, Decoded(begun_s, decoder.decode(request.tokens, request.limit_s)))
        else:
            _say(replies, Times(token_times(session.timeline())))


def _say(replies: BinaryIO, reply: Reply) -> None:
    replies.write(msgspec.json.encode(reply) + b"\n")


if __name__ == "__main__":
    main()

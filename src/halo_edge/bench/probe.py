"""`python -m halo_edge.bench.probe JSON`: the root of an experiment, inside a lab.

It opens one session with the lab's workers and decodes, or scores text, when it is told to, until
its standard input ends: the weights are loaded and the shards sent once for all configurations of
the links and of the rounds.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import BinaryIO, Final

import msgspec

from halo_edge.bench.decoding import Decoder
from halo_edge.bench.probe_messages import (
    Decode,
    Decoded,
    Done,
    Failed,
    Prepare,
    ProbeStart,
    Relax,
    Reply,
    Request,
    Score,
    Times,
)
from halo_edge.bench.scoring import Scorer
from halo_edge.cluster.control import ControlOptions
from halo_edge.cluster.relaxation import RelaxOptions, Spent
from halo_edge.cluster.root import Cluster, RoundsOptions
from halo_edge.cluster.session import Session, SessionOptions, open_session
from halo_edge.cluster.trace_summary import token_times
from halo_edge.engine.trace import Recorder, Tracer
from halo_edge.errors import HaloError
from halo_edge.groups.profile import Profile

# A larger model's fills over a lossy link, on devices that do other things beside.
RELAXABLE_S: Final = 240.0
POLL_S: Final = 0.05


def main() -> None:
    start = msgspec.json.decode(sys.argv[1], type=ProbeStart)
    # Only replies go where they are read, whatever a library may print.
    replies = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)
    try:
        with open_session(_session(start)) as session:
            _serve(session, start, sys.stdin.buffer, replies)
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
        RoundsOptions(
            transport=start.transport,
            stall_timeout_s=start.stall_timeout_s,
            profile=None if start.profile is None else Profile.load(Path(start.profile)),
            placement=start.placement,
            scheduled=start.scheduled,
            memory_bytes=start.memory_bytes,
        ),
        Recorder() if start.trace else Tracer(),
    )


def _serve(session: Session, start: ProbeStart, requests: BinaryIO, replies: BinaryIO) -> None:
    decoder = Decoder(session, start.context)
    scorer = Scorer(session, Path(start.directory))
    done = Done(session.model.params.n_layers)
    _say(replies, done)
    for line in requests:
        request: Request = msgspec.json.decode(line, type=Request)
        if isinstance(request, Relax):
            _relax(_cluster(session), request.options)
            _say(replies, done)
        elif isinstance(request, Prepare):
            decoder.prepare(request.follow)
            _say(replies, done)
        elif isinstance(request, Decode):
            _say(replies, _decoded(session, decoder, request))
        elif isinstance(request, Score):
            decoder.release()
            _say(replies, scorer.score(_cluster(session), request))
        else:
            _say(replies, Times(token_times(session.timeline())))


def _cluster(session: Session) -> Cluster:
    if session.cluster is None:
        raise HaloError("one device has no rounds to relax")
    return session.cluster


def _relax(cluster: Cluster, options: RelaxOptions) -> None:
    """Also wait until rounds can be: what is measured next is not to be strict."""
    cluster.relax(options)
    deadline = time.monotonic() + RELAXABLE_S
    while options.relaxes and not cluster.relaxable:
        if time.monotonic() > deadline:
            raise HaloError(f"rounds cannot be relaxed: no fills have come in {RELAXABLE_S:.0f} s")
        time.sleep(POLL_S)


def _decoded(session: Session, decoder: Decoder, request: Decode) -> Decoded:
    before, begun_s = _spent(session), time.monotonic()
    decoding = decoder.decode(request.tokens, request.limit_s, request.settle)
    spent, cluster = _spent(session).since(before), session.cluster
    if cluster is None:
        return Decoded(begun_s, decoding, spent)
    shares = cluster.plan.shares
    return Decoded(
        begun_s,
        decoding,
        spent,
        [len(share) for share in shares],
        [share.start for share in shares],
        cluster.outlook,
    )


def _spent(session: Session) -> Spent:
    return Spent() if session.cluster is None else session.cluster.spent


def _say(replies: BinaryIO, reply: Reply) -> None:
    replies.write(msgspec.json.encode(reply) + b"\n")


if __name__ == "__main__":
    main()

"""The control plane: Zenoh sessions, the keys under which things are found, and questions.

Keys: `halo/CLUSTER/worker/ID` (liveliness; `/info`, `/assign`, `/fill`, `/tile/SHA256`, `/clock`,
`/echo`, `/packet-train`, `/benchmark` and `/trace` answer questions) and
`halo/CLUSTER/root/SESSION` (liveliness; `/shard/SHA256` answers with the bytes of a shard, or of a
regression).
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import zenoh

from halo_edge.errors import HaloError

DEFAULT_CLUSTER: Final = "default"
LEASE_MS: Final = 120_000
# Zenoh closes a connection over which a message cannot be put on its way for so long, by default 5
# s. A batch of 64 kB takes longer where TCP carries some kilobytes a second.
MAX_BLOCKED_US: Final = 30_000_000
KEEP_ALIVES_PER_LEASE: Final = 24


@dataclass(frozen=True)
class ControlOptions:
    """How to reach the others of cluster `cluster`.

    `listen`, `connect`: Zenoh endpoints such as `tcp/192.168.1.5:7447`; `multicast`: look for
    peers on the local network; `config_file`: a Zenoh configuration (TLS, access control), which
    the others amend.
    """

    cluster: str = DEFAULT_CLUSTER
    listen: Sequence[str] = ()
    connect: Sequence[str] = ()
    multicast: bool = True
    config_file: Path | None = None


def check_cluster_name(name: str) -> None:
    """Raises `HaloError` for a name that cannot be a part of a key."""
    check_name(name, "cluster")


def check_name(name: str, of_what: str) -> None:
    """As `check_cluster_name`, for the name of something else."""
    if not re.fullmatch(r"[A-Za-z0-9_.-]{1,64}", name):
        raise HaloError(
            f"{of_what} name {name!r}: use 1 to 64 letters, digits, dots, hyphens or underscores"
        )


def open_control(options: ControlOptions) -> zenoh.Session:
    """Raises `HaloError` where an endpoint is malformed or taken."""
    check_cluster_name(options.cluster)
    zenoh.init_log_from_env_or("off")  # its errors come back as exceptions, which we tell
    try:
        config = _read(options.config_file) if options.config_file else zenoh.Config()
        config.insert_json5("mode", '"peer"')
        config.insert_json5("scouting/multicast/enabled", json.dumps(options.multicast))
        # Shared memory between processes of one machine would cost each a pool of 16 MB.
        config.insert_json5("transport/shared_memory/enabled", "false")
        # A process that ends closes its connections; the lease is for hosts that vanish, and those
        # the rounds notice sooner. At 30 % loss TCP may well say nothing for 20 s.
        config.insert_json5("transport/link/tx/lease", str(LEASE_MS))
        config.insert_json5("transport/link/tx/keep_alive", str(KEEP_ALIVES_PER_LEASE))
        congestion = "transport/link/tx/queue/congestion_control"
        config.insert_json5(f"{congestion}/block/wait_before_close", str(MAX_BLOCKED_US))
        # Workers have nothing to say to each other.
        config.insert_json5("scouting/gossip/enabled", "false")
        if options.listen or not (options.multicast or options.config_file):
            config.insert_json5("listen/endpoints", json.dumps(list(options.listen)))
        if options.connect:
            config.insert_json5("connect/endpoints", json.dumps(list(options.connect)))
        return zenoh.open(config)
    except zenoh.ZError as error:
        if "in use" in str(error):
            raise HaloError(
                f"port taken: {', '.join(options.listen)} is in use; "
                f"choose another with --listen, or stop the program that has it"
            ) from None
        raise HaloError(f"the control plane does not start: {_reason(error)}") from None


def _read(config_file: Path) -> zenoh.Config:
    try:
        return zenoh.Config.from_file(str(config_file))
    except zenoh.ZError as error:
        raise HaloError(f"{config_file} is no Zenoh configuration: {_reason(error)}") from None


def _reason(error: zenoh.ZError) -> str:
    """Zenoh's words in one line, without the places in its source."""
    return " ".join(re.sub(r" at /\S+\.rs:\d+\.?", "", str(error)).split())[:300]


def worker_key(cluster: str, worker: str) -> str:
    return f"halo/{cluster}/worker/{worker}"


def root_key(cluster: str, session: str) -> str:
    return f"halo/{cluster}/root/{session}"


def shard_key(cluster: str, session: str, sha256: str) -> str:
    return f"{root_key(cluster, session)}/shard/{sha256}"


# What Zenoh itself answers in the name of somebody who is there and has said nothing in time.
_TIMED_OUT: Final = "Timeout"


class NoAnswerError(HaloError):
    """Nobody has answered in time."""


def ask(session: zenoh.Session, key: str, question: bytes, timeout_s: float) -> bytes:
    """The answer to a question. Raises `HaloError` for a refusal or for several, `NoAnswerError`
    for none."""
    everybodys = zenoh.ConsolidationMode.NONE  # not the latest of several
    answers: set[bytes] = set()
    for reply in session.get(key, payload=question, timeout=timeout_s, consolidation=everybodys):
        if reply.ok is not None:
            answers.add(reply.ok.payload.to_bytes())
        if reply.err is not None:
            refusal = reply.err.payload.to_string()[:300]
            if refusal == _TIMED_OUT:
                raise NoAnswerError(f"no answer from {key} in {timeout_s:g} s; is its link good?")
            raise HaloError(f"{key} refused: {refusal}")
    if len(answers) > 1:
        raise HaloError(f"several answer as {key}; start each worker with a --name of its own")
    for answer in answers:
        return answer
    raise NoAnswerError(f"no answer from {key}; is it still running?")


def alive(session: zenoh.Session, key_expression: str, timeout_s: float = 1.0) -> list[str]:
    """The keys of those who declared themselves alive and match."""
    replies = session.liveliness().get(key_expression, timeout=timeout_s)
    return sorted({str(reply.ok.key_expr) for reply in replies if reply.ok is not None})

"""Who of a cluster's workers is there: as they declare it, and what they say when they are asked.

Any thread may ask; Zenoh calls back from threads of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import zenoh

from halo_edge.cluster import control
from halo_edge.cluster.discovery import check_version, describe
from halo_edge.cluster.messages import WorkerInfo
from halo_edge.errors import HaloError

# Names of workers that are gone: more than anybody has.
MAX_LEFT: Final = 4096


@dataclass(frozen=True)
class Came:
    """A worker of that name is there."""

    worker: str


@dataclass(frozen=True)
class Left:
    """It is there no more."""

    worker: str


@dataclass(frozen=True)
class Needed:
    """It is there no more, or as good as that, and a round waits for what it alone can compute."""

    worker: str


class Membership:
    """Of one root's session, whose token says that the root is there."""

    def __init__(
        self,
        session: zenoh.Session,
        cluster: str,
        name: str,
        tell: Callable[[Came | Left], None],
    ) -> None:
        """`name`: of the root's session. `tell`: called at every coming and going."""
        self._session = session
        self._cluster = cluster
        self._tell = tell
        self._left: set[str] = set()
        self._token = session.liveliness().declare_token(control.root_key(cluster, name))
        key = control.worker_key(cluster, "*")
        self._watch = session.liveliness().declare_subscriber(key, self._on_liveliness)

    def ask(self, name: str) -> WorkerInfo:
        """Raises `HaloError` for a worker that does not answer, or of another version."""
        worker = describe(self._session, control.worker_key(self._cluster, name))
        if worker.worker != name:
            raise HaloError(f"worker {name} says that it is {worker.worker}")
        check_version(worker)
        return worker

    def has_left(self, name: str) -> bool:
        """Whether it was there, and is not."""
        return name in self._left

    def close(self) -> None:
        self._watch.undeclare()  # type: ignore[no-untyped-call]
        self._token.undeclare()  # type: ignore[no-untyped-call]

    def _on_liveliness(self, sample: zenoh.Sample) -> None:
        worker = str(sample.key_expr).rsplit("/", 1)[-1]
        if sample.kind == zenoh.SampleKind.DELETE:
            if len(self._left) < MAX_LEFT:
                self._left.add(worker)
            self._tell(Left(worker))
        else:
            self._left.discard(worker)
            self._tell(Came(worker))

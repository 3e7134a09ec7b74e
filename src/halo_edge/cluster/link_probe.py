"""How fast a worker's link is, and what it loses, while there are no rounds over it.

Round trips are asked over the control plane. That is TCP, so on a bad link some questions take
long; of several the best counts. Rates and losses are those of packet trains, and where none
comes (a firewall that lets them out, but not in), the rate is TCP's. Rounds themselves say little
of a link's own time: whoever answers computes first, and whoever receives is busy meanwhile.
"""

from __future__ import annotations

import contextlib
import math
import time
from typing import Final

import zenoh

from halo_edge.cluster import control, packet_train
from halo_edge.cluster.addresses import local_address_towards
from halo_edge.cluster.assigning import address_of
from halo_edge.cluster.messages import WorkerInfo, encode
from halo_edge.errors import HaloError
from halo_edge.plan.link import Link

PROBE_BYTES: Final = 1 << 16
"""Each way; the most that a worker echoes."""
PROBES: Final = 3
TRAINS: Final = 5
SMALL_PROBES: Final = 8
PROBE_TIMEOUT_S: Final = 3.0
# While rounds go on, whoever asks has something else to do.
POLL_TIMEOUT_S: Final = 1.0
# What a question takes over loopback.
_ASKING_S: Final = 3e-4
# Faster than that is the control plane's own pace, and no link's.
_NO_LIMIT_BYTES_PER_S: Final = 30e6


class LinkProbe:
    """Of a cluster's workers."""

    def __init__(self, session: zenoh.Session, cluster: str) -> None:
        self._session = session
        self._cluster = cluster

    def link(self, worker: WorkerInfo) -> Link:
        """The same both ways: rate and losses are those from the worker.

        Raises `HaloError` for a worker that does not answer at all.
        """
        name = worker.worker
        small_s = self._best_s(name, 1, SMALL_PROBES, PROBE_TIMEOUT_S)
        trains = self._trains(worker)
        lost, rate = 0.0, math.inf
        if any(trains):
            lost, rate = packet_train.loss(trains), packet_train.bytes_per_s(trains) or math.inf
        else:
            with contextlib.suppress(HaloError):
                large_s = self._best_s(name, PROBE_BYTES, PROBES, PROBE_TIMEOUT_S)
                rate = 2 * PROBE_BYTES / max(large_s - small_s, 1e-6)
        return Link.alike(
            rtt_s=max(0.0, small_s - _ASKING_S),
            bytes_per_s=rate if rate < _NO_LIMIT_BYTES_PER_S else math.inf,
            loss=lost,
        )

    def rtt_s(self, worker: WorkerInfo) -> float:
        """Asked once. Raises `HaloError` for a worker that does not answer."""
        return max(0.0, self._best_s(worker.worker, 1, 1, POLL_TIMEOUT_S) - _ASKING_S)

    def _trains(self, worker: WorkerInfo) -> list[list[packet_train.Arrival]]:
        """Until one does not come at all."""
        key = control.worker_key(self._cluster, worker.worker) + "/packet-train"

        def ask(task: packet_train.TrainTask) -> None:
            control.ask(self._session, key, encode(task), PROBE_TIMEOUT_S)

        trains: list[list[packet_train.Arrival]] = []
        with contextlib.suppress(HaloError):
            here = local_address_towards(address_of(worker)[0])
            while len(trains) < TRAINS and all(trains):
                trains.append(packet_train.receive_train(here, ask))
        return trains

    def _best_s(self, worker: str, nbytes: int, times: int, timeout_s: float) -> float:
        """Raises `HaloError` if none is answered."""
        key = control.worker_key(self._cluster, worker) + "/echo"
        question, best_s = bytes(nbytes), math.inf
        for left in range(times - 1, -1, -1):
            begun_s = time.monotonic()
            try:
                control.ask(self._session, key, question, timeout_s)
            except HaloError:
                if not left and best_s == math.inf:
                    raise
                continue
            best_s = min(best_s, time.monotonic() - begun_s)
        return best_s

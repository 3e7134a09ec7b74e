"""Rounds of a root and its workers in one process, in turn, with a stopwatch beside each piece.

Every device does what it does in a round of the real cluster, over loopback. Between two rounds of
one device the weights of all others stream through the caches, as those of its own layers do on a
machine of its own; a tight loop would be two to five times as fast (docs/RESULTS.md).
"""

from __future__ import annotations

import os
import select
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from halo_edge.cluster import udp
from halo_edge.cluster.round_layout import round_layout
from halo_edge.cluster.stopwatch import Stopwatch
from halo_edge.compute.ffn import FfnGraphs, LayerWeights
from halo_edge.compute.partials import PartialSum
from halo_edge.compute.rows import Rows
from halo_edge.compute.runtime import Runtime
from halo_edge.compute.wire import WireCodec
from halo_edge.errors import HaloError
from halo_edge.sync.ids import DeviceId, RoundId
from halo_edge.sync.layout import RoundLayout
from halo_edge.sync.root import RootRounds
from halo_edge.sync.timing import Recovery
from halo_edge.sync.worker import WorkerRounds

WORKERS: Final = 3
LOOPBACK: Final = "127.0.0.1"
# Nothing is under way when somebody waits here but what already lies in his socket.
_STALL_TIMEOUT_S: Final = 2.0


@dataclass(frozen=True, eq=False)
class _Setting:
    """What root and workers have in common."""

    key: bytes
    layout: RoundLayout
    x: WireCodec
    partial: WireCodec
    runtime: Runtime
    watch: Stopwatch


class BenchRounds:
    """`round` makes one of one token, with the laps "encode", "round" (begun at the root), "seal",
    "send", "receive" (of a datagram each), "wait" (`select` with something there), "part" (a
    device's FFN), "serve" (a worker's books) and "add". Use as a context manager."""

    def __init__(
        self,
        runtime: Runtime,
        watch: Stopwatch,
        codecs: tuple[WireCodec, WireCodec],
        x: NDArray[np.float32],
        out: NDArray[np.float32],
        parts: Sequence[Sequence[LayerWeights]],
    ) -> None:
        """`codecs`: of x, and of partials. `x`, `out`: f32[1 or more, H], of which the first row is
        used. `parts`: of each layer, the root's and those of `WORKERS` workers. Raises `HaloError`
        where there is no loopback."""
        x_codec, partial_codec = codecs
        layout = round_layout(
            x_codec,
            partial_codec,
            n_layers=len(parts[0]),
            max_tokens=1,
            max_payload=udp.MAX_PAYLOAD,
            window=udp.MAX_WINDOW,
        )
        setting = _Setting(os.urandom(32), layout, x_codec, partial_codec, runtime, watch)
        self._watch = watch
        self._own = FfnGraphs(runtime, parts[0], Rows.f32(x), Rows.f32(out))
        self._own.prepare()
        devices = [DeviceId(i) for i in range(1, len(parts))]
        self._rounds = rounds = RootRounds(
            setting.key,
            layout,
            devices,
            epoch=0,
            recovery=Recovery(),
            stall_timeout_s=_STALL_TIMEOUT_S,
        )
        self._socket = udp.bind(LOOPBACK, 0)
        root = self._socket.getsockname()
        self._workers = [_Worker(setting, device, parts[device], root) for device in devices]
        addresses = {d: w.address for d, w in zip(devices, self._workers, strict=True)}
        self._link = udp.UdpRootLink(self._socket, addresses)
        self._encoder = x_codec.encoder(x)
        partials = [partial_codec.rows(rounds.partial_memory(device)) for device in devices]
        self._sum = PartialSum(runtime, partials, Rows.f32(out))
        self._step = -1

    def round(self, layer: int) -> None:
        """Layers come in order, from 0. Raises `HaloError` if loopback does not carry it."""
        rounds, watch = self._rounds, self._watch
        self._step += layer == 0
        watch.start()
        x = self._encoder.encode(1)
        watch.lap("encode")
        now = time.monotonic()
        rounds.begin(RoundId(self._step, layer), 1, x, now)
        watch.lap("round")
        self._send(now)
        watch.start()
        self._own.run(layer, 1)
        watch.lap("part")
        for worker in self._workers:
            worker.serve()
        watch.start()
        while not rounds.complete:
            rounds.deadline()
            now = _wait(self._socket)
            watch.lap("wait")
            taken = 0
            while not rounds.complete and (datagram := self._link.receive()) is not None:
                rounds.receive(datagram, now)
                taken += 1
            watch.lap("receive", taken)
            if not rounds.complete:
                self._send(now)
        watch.start()
        self._sum.add(1)
        watch.lap("add")

    def _send(self, now: float) -> None:
        watch = self._watch
        watch.start()
        datagrams = self._rounds.datagrams(now)
        watch.lap("seal", len(datagrams))
        for destinations, datagram in datagrams:
            self._link.send(destinations, datagram)
            watch.lap("send", len(destinations))

    def close(self) -> None:
        self._socket.close()
        for worker in self._workers:
            worker.close()

    def __enter__(self) -> BenchRounds:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Worker:
    """As `cluster.worker_session.Session.serve`."""

    def __init__(
        self,
        setting: _Setting,
        device: DeviceId,
        weights: Sequence[LayerWeights],
        root: tuple[str, int],
    ) -> None:
        layout = setting.layout
        self._watch = setting.watch
        self._rounds = WorkerRounds(setting.key, layout, device, epoch=0, recovery=Recovery())
        self._socket = udp.bind(LOOPBACK, 0)
        self.address: tuple[str, int] = self._socket.getsockname()
        self._link = udp.UdpWorkerLink(self._socket, root)
        self._partial = memoryview(bytearray(layout.partial_row_bytes))
        x = setting.x.rows(self._rounds.x_memory)
        out = setting.partial.rows(self._partial)
        self._part = FfnGraphs(setting.runtime, weights, x, out)
        self._part.prepare()

    def serve(self) -> None:
        rounds, link, watch = self._rounds, self._link, self._watch
        request, now = None, 0.0
        while request is None:
            watch.start()
            now = _wait(self._socket)
            watch.lap("wait")
            taken = 0
            while request is None and (datagram := link.receive()) is not None:
                rounds.receive(datagram, now)
                taken += 1
                request = rounds.ready()
            watch.lap("receive", taken)
        watch.start()
        self._part.run(request.id.layer, 1)
        watch.lap("part")
        rounds.answer(request.id, self._partial, now)
        watch.lap("serve")
        datagrams = rounds.datagrams(now)
        watch.lap("seal", len(datagrams))
        for answer in datagrams:
            link.send(answer)
        watch.lap("send", len(datagrams))

    def close(self) -> None:
        self._socket.close()


def _wait(sock: socket.socket) -> float:
    """Until something can be received; the time. Raises `HaloError` if that does not happen."""
    if not select.select((sock,), (), (), _STALL_TIMEOUT_S)[0]:
        raise HaloError("datagrams do not pass over loopback; look at this machine's firewall")
    return time.monotonic()

"""A root and three workers in one process, in turn, with a stopwatch beside each.

Every device does what it does in a round of the real cluster, over loopback. Between two rounds of
one device the weights of all others stream through the caches, as on a machine that the devices
of a lab share; a tight loop would be two to five times as fast (docs/RESULTS.md).
"""

from __future__ import annotations

import os
import select
import time
from collections.abc import Sequence
from typing import Final

from halo_edge.cluster import udp
from halo_edge.cluster.round_layout import round_layout
from halo_edge.compute.ffn import FfnGraphs, FfnWeights
from halo_edge.compute.partials import PartialSum
from halo_edge.compute.rows import Rows
from halo_edge.compute.runtime import Runtime
from halo_edge.compute.wire import Wire, WireCodec
from halo_edge.engine.engine import PREFILL_CHUNK
from halo_edge.engine.forward import Forward
from halo_edge.engine.trace import Activity
from halo_edge.lab.stopwatch import Stopwatch
from halo_edge.sync.ids import DeviceId, RoundId
from halo_edge.sync.root import RootRounds
from halo_edge.sync.timing import Recovery
from halo_edge.sync.worker import WorkerRounds

WORKERS: Final = 3
LOOPBACK: Final = "127.0.0.1"
_STALL_TIMEOUT_S: Final = 5.0


class _Setting:
    """What root and workers have in common."""

    def __init__(self, n_layers: int, hidden: int) -> None:
        self.runtime = Runtime(1)
        self.key = os.urandom(32)
        self.watch = Stopwatch()
        self.x = WireCodec(Wire.MIXED.x, hidden)
        self.partial = WireCodec(Wire.MIXED.partial, hidden)
        self.layout = round_layout(
            self.x,
            self.partial,
            n_layers=n_layers,
            max_tokens=1,
            max_payload=udp.MAX_PAYLOAD,
            window=udp.MAX_WINDOW,
        )


class _Worker:
    """As `cluster.worker_session.Session.serve`."""

    def __init__(
        self,
        setting: _Setting,
        device: DeviceId,
        weights: Sequence[FfnWeights],
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
            select.select((self._socket,), (), (), _STALL_TIMEOUT_S)
            now = time.monotonic()
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


class BenchCluster:
    """A `Gather` for decode (one token a step) and for prefill, where the whole FFN is computed
    here. Laps of `watch`: see the calls of `lap`. Use as a context manager."""

    def __init__(self, forward: Forward, whole: Sequence[FfnWeights], hidden: int) -> None:
        """`whole`: of each layer."""
        self._tracer = forward.tracer
        setting = _Setting(len(whole), hidden)
        self.watch = setting.watch
        acts = forward.activations
        x, ffn = Rows.f32(acts.x), Rows.f32(acts.ffn)
        parts = [[_part(weights, i, WORKERS + 1) for weights in whole] for i in range(WORKERS + 1)]
        self._whole = FfnGraphs(setting.runtime, whole, x, ffn)
        self._own = FfnGraphs(setting.runtime, parts[0], x, ffn)
        self._whole.prepare()
        self._own.prepare()
        devices = [DeviceId(i) for i in range(1, WORKERS + 1)]
        self._rounds = rounds = RootRounds(
            setting.key,
            setting.layout,
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
        self._encoder = setting.x.encoder(acts.x)
        partials = [setting.partial.rows(rounds.partial_memory(device)) for device in devices]
        self._sum = PartialSum(setting.runtime, partials, ffn)
        self._step = -1

    def ffn(self, layer: int, tokens: int) -> None:
        if tokens == 1:
            self._round(layer)
        self.watch.start()
        self._whole.run(layer, tokens)
        if tokens in (1, PREFILL_CHUNK):
            self.watch.lap("whole" if tokens == 1 else "prefill")
        self._tracer.lap(Activity.OWN_FFN)

    def _round(self, layer: int) -> None:
        rounds, watch = self._rounds, self.watch
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
            select.select((self._socket,), (), (), _STALL_TIMEOUT_S)
            now = time.monotonic()
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
        watch = self.watch
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

    def __enter__(self) -> BenchCluster:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _part(weights: FfnWeights, i: int, n: int) -> FfnWeights:
    """The `i`-th of `n` parts, cut between the quantisation's blocks. Raises ValueError where there
    is no such place."""
    values, _ = weights.down.block
    blocks = weights.down.columns // values
    start, stop = i * blocks // n * values, (i + 1) * blocks // n * values
    down = weights.down.column_range(start, stop)
    if down is None or start == stop:
        raise ValueError("too few neurons to be parted")
    return FfnWeights(weights.gate.row_range(start, stop), weights.up.row_range(start, stop), down)

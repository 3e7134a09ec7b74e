"""What is found out of devices before there are rounds: benchmarks and links."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import zenoh

from halo_edge.cluster import control
from halo_edge.cluster.link_probe import LinkProbe
from halo_edge.cluster.messages import WorkerInfo, decode, encode
from halo_edge.cluster.profile_message import BenchmarkReply, BenchmarkTask, profile_of
from halo_edge.compute.wire import Wire
from halo_edge.model.gguf_file import GgufFile
from halo_edge.plan.device_profile import DeviceProfile
from halo_edge.plan.link import Link

# A benchmark takes a second or two, and devices of one machine wait for one another.
BENCHMARK_TIMEOUT_S: Final = 30.0


@dataclass(frozen=True)
class Measured:
    """Of a worker."""

    benchmark: DeviceProfile
    storage_bytes_per_s: float | None
    link: Link


def benchmark_task(gguf: GgufFile, down_type: int | None, wire: Wire) -> BenchmarkTask:
    """With the matrices of the model's first layer. `down_type`: what `down` is requantised to;
    None: it is as in the file. Raises `HaloError` for a model without them."""
    gate, up, down = (gguf.tensor(f"blk.0.ffn_{part}.weight") for part in ("gate", "up", "down"))
    return BenchmarkTask(
        hidden=gate.shape[0],
        ffn=gate.shape[1],
        gate_type=gate.ggml_type,
        up_type=up.ggml_type,
        down_type=down.ggml_type if down_type is None else down_type,
        x_wire=wire.x,
        partial_wire=wire.partial,
    )


class Measuring:
    """Of a cluster's workers, for `task`."""

    def __init__(self, session: zenoh.Session, cluster: str, task: BenchmarkTask) -> None:
        self._session = session
        self._cluster = cluster
        self._task = task
        self._probe = LinkProbe(session, cluster)

    def device(self, worker: WorkerInfo) -> Measured:
        """Raises `HaloError` for one that does not answer, or could not measure itself."""
        name = worker.worker
        link = self._probe.link(worker)
        key = control.worker_key(self._cluster, name) + "/benchmark"
        answer = control.ask(self._session, key, encode(self._task), BENCHMARK_TIMEOUT_S)
        reply = decode(answer, BenchmarkReply, name)
        return Measured(profile_of(reply, f"worker {name}"), reply.storage_bytes_per_s, link)

    def link(self, worker: WorkerInfo) -> Link:
        """As it is now. Raises `HaloError` for one that does not answer."""
        return self._probe.link(worker)

    def rtt_s(self, worker: WorkerInfo) -> float:
        """Of its link, now. Raises `HaloError` for one that does not answer."""
        return self._probe.rtt_s(worker)

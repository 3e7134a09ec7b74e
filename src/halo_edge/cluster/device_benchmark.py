"""What a device is good for, measured by itself in a second, before it serves.

The numbers that `lab/host_profile.py` takes some seconds for, from the same rounds
(`bench_rounds.py`), but for one model's matrices, on any number of threads, in bounded memory and
time. Those rounds are made of pieces, one after another; how much longer whole ones take, as they
are in a session (`bench_session.py`), goes for all pieces. Three numbers that only a root needs are
estimated; `sources` says so.

Times are CPU time of the calling thread, so that neither a quota nor other processes on its core
make a device look slow; how much of it there is to use is for `limits.py` to say. With several
compute threads the calling one does its share of a graph and then waits, busy, for the others,
which may wait for a core themselves: then the quicker graphs count, for which each had one. (The
CPU time of all threads would not do: the kernel brings it up to date only when they are switched.)
"""

from __future__ import annotations

import select
import time
from typing import Final

import numpy as np
from numpy.typing import NDArray

from halo_edge.cluster.bench_rounds import WORKERS, BenchRounds
from halo_edge.cluster.bench_session import BenchSession
from halo_edge.cluster.bench_sizes import SMALL_SHARDS, BenchSizes
from halo_edge.cluster.bench_weights import bench_weights
from halo_edge.cluster.freed_memory import give_memory_back
from halo_edge.cluster.profile_message import BenchmarkTask
from halo_edge.cluster.stopwatch import Stopwatch
from halo_edge.compute.context import aligned
from halo_edge.compute.ffn import FfnGraphs, LayerWeights
from halo_edge.compute.rows import Rows
from halo_edge.compute.runtime import Runtime
from halo_edge.compute.wire import WireCodec
from halo_edge.groups.shard import ShardSpec
from halo_edge.plan.device_profile import DeviceProfile
from halo_edge.plan.workload import PREFILL_CHUNK

# More than the caches of most machines hold, so that weights come from memory as in real rounds.
MEMORY_BYTES: Final = 48 << 20
# CPU time; and time by the clock, which comes first where there is a quota of a quarter of a core.
BUDGET_S: Final = 1.0
DEADLINE_S: Final = 4.0
# Of both, used up when the weights have been made, and when the rounds have been, in pieces and
# whole.
WEIGHTS_SHARE: Final = 0.15
ROUNDS_SHARE: Final = 0.4
SESSION_SHARE: Final = 0.65
# As many as measure well, and the fewest that measure at all.
ROUNDS: Final = 120
MIN_ROUNDS: Final = 3
# The first find nothing in the caches, and build what is kept from then on.
WARM_UP: Final = 2
PREFILLS: Final = 3
WAKE_UPS: Final = 20
REST_S: Final = 0.0003
# How many times as long as its weights a large shard may take: of no model worth several devices is
# three quarters the graph's, and a disturbed measurement that says so is not believed.
MAX_OVERHEAD: Final = 4.0
# Seconds that a round's pieces take on the core that docs/simulator.md refers to, and what is
# estimated by how much longer they take here.
REFERENCE_S: Final = (
    ("round", 18e-6),
    ("serve", 7e-6),
    ("seal", 10e-6),
    ("send", 8e-6),
    ("receive", 22e-6),
)
REFERENCE_ATTENTION_S: Final = 70e-6
REFERENCE_TOKEN_S: Final = 300e-6
KV_SHARE: Final = 0.1
"""Of the rate of weights, that of keys and values there."""


def measure_device(
    task: BenchmarkTask,
    threads: int,
    *,
    memory_bytes: int = MEMORY_BYTES,
    budget_s: float = BUDGET_S,
    deadline_s: float = DEADLINE_S,
) -> DeviceProfile:
    """Any thread may. Beside something else of the process that computes, the pieces of the
    protocol take up to half as long again, and the products a tenth.

    `memory_bytes`: what it may take, and then gives back. A slow device repeats less, and when
    `deadline_s` have passed by the clock only ends what it has begun. Raises `HaloError` for a
    model with which it cannot be done, or where loopback does not carry datagrams.
    """
    allowance = _Allowance(threads, budget_s, deadline_s)
    profile = _Benchmark(task, BenchSizes.of(task, memory_bytes), threads, allowance).profile()
    give_memory_back()
    return profile


class _Allowance:
    """CPU time of so many threads, and time by the clock, from now on."""

    def __init__(self, threads: int, budget_s: float, deadline_s: float) -> None:
        self._budget_s = budget_s / threads
        self._deadline_s = deadline_s
        self._cpu_began_s, self._began_s = time.thread_time(), time.monotonic()

    @property
    def used(self) -> float:
        """The share of it, of whichever is nearer to its end."""
        cpu_s, clock_s = self._passed()
        return max(cpu_s / self._budget_s, clock_s / self._deadline_s)

    def has(self, cpu_s: float) -> bool:
        """Whether so much more CPU time of this thread is left, coming as slowly as so far."""
        so_far_s, clock_s = self._passed()
        clock_per_cpu = clock_s / max(so_far_s, 1e-6)
        more = max(cpu_s / self._budget_s, cpu_s * clock_per_cpu / self._deadline_s)
        return self.used + more <= 1

    def _passed(self) -> tuple[float, float]:
        return time.thread_time() - self._cpu_began_s, time.monotonic() - self._began_s


class _Benchmark:
    """Weights of some layers, each a large shard for `_large` and small ones for the devices of
    the rounds, the last for the worker of whole ones; and the laps of what was done with them:
    those of `BenchRounds`, of which "part" is a small shard, "large", "prefill" and "wake"."""

    def __init__(
        self, task: BenchmarkTask, sizes: BenchSizes, threads: int, allowance: _Allowance
    ) -> None:
        self._sizes = sizes
        self._allowance = allowance
        self._watch = watch = Stopwatch(time.thread_time)
        self._graph_s = watch.typical_s if threads == 1 else watch.quick_s
        self._task = task
        self._runtime = Runtime(threads)
        self._codecs = (
            WireCodec(task.x_wire, task.hidden),
            WireCodec(task.partial_wire, task.hidden),
        )
        self._x: NDArray[np.float32] = aligned((PREFILL_CHUNK, task.hidden), np.float32)
        self._out: NDArray[np.float32] = aligned((PREFILL_CHUNK, task.hidden), np.float32)
        # Small, so that products of weights drawn for speed stay finite.
        self._x[:] = 1e-3 * np.random.default_rng(0).standard_normal(task.hidden, np.float32)
        large: list[LayerWeights] = []
        self._small: list[list[LayerWeights]] = [[] for _ in range(SMALL_SHARDS)]
        self._large = self._graphs(large)
        while not large or (len(large) < sizes.layers and allowance.used < WEIGHTS_SHARE):
            large.append((bench_weights(sizes.large),))
            for device in self._small:
                device.append((bench_weights(sizes.small),))
            self._large.run(len(large) - 1, 1)  # repacks them
        self._layers = len(large)

    def profile(self) -> DeviceProfile:
        """Measures everything."""
        self._rounds()
        self._wake_ups()
        whole = self._whole_rounds()
        prefilled = self._prefill()
        typical_s, large, small = self._watch.typical_s, self._sizes.large, self._sizes.small
        large_s, small_s = self._graph_s("large"), self._graph_s("part")
        # Between that of the large shard with its graph, and so many times that.
        least = large.nbytes / large_s
        slope = (large.nbytes - small.nbytes) / max(large_s - small_s, 1e-9)
        memory = min(max(slope, least), MAX_OVERHEAD * least)
        graph_s = max(0.0, small_s - small.nbytes / memory)
        if prefilled is not None:
            flop = 2 * _weights(prefilled) * PREFILL_CHUNK / typical_s("prefill")
        else:
            flop = 2 * _weights(large) / large.nbytes * memory
        slower = sum(typical_s(name) for name, _ in REFERENCE_S) / sum(s for _, s in REFERENCE_S)
        return DeviceProfile(
            name="measured",
            memory_bytes_per_s=memory,
            flop_per_s=flop,
            kv_bytes_per_s=KV_SHARE * memory,
            graph_s=graph_s,
            attention_s=REFERENCE_ATTENTION_S * slower,
            token_s=REFERENCE_TOKEN_S * slower,
            encode_s=whole * typical_s("encode"),
            add_s=whole * max(0.0, self._graph_s("add") - graph_s) / WORKERS,
            round_s=whole * typical_s("round"),
            serve_s=whole * typical_s("serve"),
            seal_s=whole * typical_s("seal"),
            send_s=whole * typical_s("send"),
            receive_s=whole * typical_s("receive"),
            crypto_s_per_byte=0.0,
            wake_s=whole * typical_s("wake"),
            sources=_sources(flop_is_measured=prefilled is not None),
        )

    def _rounds(self) -> None:
        watch = self._watch
        x, out = self._x, self._out
        parts = self._small[: WORKERS + 1]
        with BenchRounds(self._runtime, watch, self._codecs, x, out, parts) as rounds:
            for n in range(ROUNDS):
                if n >= MIN_ROUNDS and self._allowance.used > ROUNDS_SHARE:
                    break
                rounds.round(n % self._layers)
                watch.start()
                self._large.run(n % self._layers, 1)
                watch.lap("large")

    def _whole_rounds(self) -> float:
        """How many times as long as their pieces they take."""
        own, worker = self._small[0], self._small[-1]
        with BenchSession(self._runtime, self._task, self._x, self._out, own, worker) as session:
            for n in range(ROUNDS):
                if n >= WARM_UP + MIN_ROUNDS and self._allowance.used > SESSION_SHARE:
                    break
                session.round(n % self._layers)
                self._large.run(n % self._layers, 1)
        return session.took_s(WARM_UP) / session.pieces_s(self._watch.typical_s)

    def _wake_ups(self) -> None:
        """Falling asleep is in it, too; the timer stands in for a datagram."""
        for _ in range(WAKE_UPS):
            self._watch.start()
            select.select((), (), (), REST_S)
            self._watch.lap("wake")

    def _prefill(self) -> ShardSpec | None:
        """The shard that it was measured with: the larger one for which there is time; or None."""
        small = self._graphs(self._small[0])
        shards = (
            (self._large, self._sizes.large, "large"),
            (small, self._sizes.small, "part"),
        )
        for graphs, shard, lap in shards:
            # Tokens that share the weights take half as long as each alone, and mostly less.
            expected_s = PREFILL_CHUNK * self._graph_s(lap) / 2
            if not self._allowance.has(2 * expected_s):
                continue
            graphs.run(0, PREFILL_CHUNK)  # builds the graph, and gets its memory
            for _ in range(PREFILLS):
                self._watch.start()
                graphs.run(0, PREFILL_CHUNK)
                self._watch.lap("prefill")
                if not self._allowance.has(expected_s):
                    break
            return shard
        return None

    def _graphs(self, weights: list[LayerWeights]) -> FfnGraphs:
        return FfnGraphs(self._runtime, weights, Rows.f32(self._x), Rows.f32(self._out))


def _weights(shard: ShardSpec) -> int:
    return 3 * shard.neurons * shard.width


def _sources(*, flop_is_measured: bool) -> dict[str, str]:
    by_rounds = "that of the reference core (docs/simulator.md), by how long rounds take here"
    sources = {
        "kv_bytes_per_s": "a tenth of memory_bytes_per_s, as on the reference core",
        "attention_s": by_rounds,
        "token_s": by_rounds,
        "crypto_s_per_byte": "contained in seal_s and receive_s",
        "others": "measured by the device itself before it served",
    }
    if not flop_is_measured:
        sources["flop_per_s"] = "that of one token at a time: there was no time to measure more"
    return sources

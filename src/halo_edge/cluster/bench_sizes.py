"""How large the shards are that a device measures itself with, and how many: all it has memory for.

Pure arithmetic, over sizes that a root sent: whatever they are, what follows fits into the memory
that was given, or is refused.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from halo_edge.cluster.bench_rounds import WORKERS
from halo_edge.cluster.profile_message import BenchmarkTask
from halo_edge.errors import HaloError
from halo_edge.groups.partition import GROUP_SIZE
from halo_edge.groups.shard import ShardSpec
from halo_edge.model.gguf_file import block_size
from halo_edge.plan.workload import PREFILL_CHUNK

# Of every token and neuron while a prompt's chunk is computed: gate, up, their product, and that
# once more as `down` is multiplied with it.
SCRATCH_BYTES: Final = 16
# Of every token and value of x: x itself, once more as it is multiplied with, and the result.
VECTOR_BYTES: Final = 12
# A layer is one large shard, and small ones of a quarter of its neurons: for each device of the
# rounds (`bench_rounds.py`), and for the worker of those that are as in a session.
SMALL_SHARE: Final = 4
SMALL_SHARDS: Final = WORKERS + 2


@dataclass(frozen=True)
class BenchSizes:
    """`layers`: the most there may be, of one `large` shard and `SMALL_SHARDS` `small` ones."""

    large: ShardSpec
    small: ShardSpec
    layers: int

    @classmethod
    def of(cls, task: BenchmarkTask, memory_bytes: int) -> BenchSizes:
        """Half of the FFN where that fits, as a device's share is seldom more.

        Raises `HaloError` where there is too little memory, or the task makes no sense.
        """
        try:
            unit = math.lcm(GROUP_SIZE, block_size(task.down_type)[0])
            unit_bytes = _shard(task, unit).nbytes
        except ValueError as error:
            raise HaloError(f"no device can be measured with this model: {error}") from None
        room = memory_bytes - PREFILL_CHUNK * VECTOR_BYTES * task.hidden
        scratch_bytes = PREFILL_CHUNK * SCRATCH_BYTES * unit
        # Two layers, each of so many times its large shard, and the scratch of that.
        times = 1 + SMALL_SHARDS / SMALL_SHARE
        fits = int(room / (2 * times * unit_bytes + scratch_bytes))
        units = max(2, min(task.ffn // 2 // unit, fits))
        small = max(1, units // SMALL_SHARE)
        layer_bytes = (units + SMALL_SHARDS * small) * unit_bytes
        layers = (room - units * scratch_bytes) // layer_bytes
        if layers < 1:
            raise HaloError(
                f"the device gives {memory_bytes / 1e6:.0f} MB to being measured, too little for "
                f"a model of hidden size {task.hidden}"
            )
        return cls(_shard(task, units * unit), _shard(task, small * unit), layers)


def _shard(task: BenchmarkTask, neurons: int) -> ShardSpec:
    return ShardSpec(neurons, task.hidden, task.gate_type, task.up_type, task.down_type)

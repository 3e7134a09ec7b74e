"""Whatever sizes a root asks for: they fit into the memory that was given, or are refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from halo_edge.cluster.bench_sizes import (
    SCRATCH_BYTES,
    SMALL_SHARDS,
    VECTOR_BYTES,
    BenchSizes,
)
from halo_edge.cluster.profile_message import BenchmarkTask
from halo_edge.compute.wire import WireFormat
from halo_edge.errors import HaloError
from halo_edge.model.gguf_file import WEIGHT_TYPES
from halo_edge.plan.workload import PREFILL_CHUNK

MB = 1 << 20
Q4_0 = 2


def task(hidden: int, ffn: int, weights: int = Q4_0) -> BenchmarkTask:
    return BenchmarkTask(
        hidden=hidden,
        ffn=ffn,
        gate_type=weights,
        up_type=weights,
        down_type=weights,
        x_wire=WireFormat.F16,
        partial_wire=WireFormat.F16,
    )


@given(
    hidden=st.integers(1, 1 << 16),
    ffn=st.integers(1, 1 << 20),
    weights=st.sampled_from([*sorted(WEIGHT_TYPES), 4, 15, 200]),
    memory_bytes=st.integers(0, 64 * MB),
)
def test_what_is_chosen_fits(hidden: int, ffn: int, weights: int, memory_bytes: int) -> None:
    try:
        sizes = BenchSizes.of(task(hidden, ffn, weights), memory_bytes)
    except HaloError:
        return
    layer = sizes.large.nbytes + SMALL_SHARDS * sizes.small.nbytes
    scratch = SCRATCH_BYTES * sizes.large.neurons + VECTOR_BYTES * hidden
    assert sizes.layers >= 1
    assert sizes.layers * layer + PREFILL_CHUNK * scratch <= memory_bytes
    assert 2 * sizes.small.neurons <= sizes.large.neurons


@pytest.mark.parametrize(("hidden", "ffn"), [(2048, 5632), (576, 1536), (4096, 11008)])
def test_real_models_use_most_of_it(hidden: int, ffn: int) -> None:
    sizes = BenchSizes.of(task(hidden, ffn), 48 * MB)
    used = sizes.layers * (sizes.large.nbytes + SMALL_SHARDS * sizes.small.nbytes)
    assert used > 30 * MB
    assert sizes.layers >= 2
    assert 4 * sizes.small.neurons == pytest.approx(sizes.large.neurons, rel=0.2)


def test_too_little_memory() -> None:
    with pytest.raises(HaloError, match="gives 1 MB to being measured"):
        BenchSizes.of(task(2048, 5632), MB)

"""What travels is what the protocol makes of it, and what a workload must be."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from tests.plan.clusters import FOUR_LAYERS, workload

from halo_edge.compute.wire import Wire, WireCodec
from halo_edge.engine.engine import PREFILL_CHUNK as ENGINE_CHUNK
from halo_edge.lab.sim_network import FRAME_HEADERS
from halo_edge.lab.simulator import Work
from halo_edge.plan.criticality import Criticality
from halo_edge.plan.timeline import SHARED_WINDOW_CHUNKS, WINDOW_CHUNKS
from halo_edge.plan.workload import MAX_PAYLOAD, OVERHEAD, PREFILL_CHUNK
from halo_edge.sync import datagram


@pytest.mark.parametrize("wire", list(Wire))
@pytest.mark.parametrize("tokens", [1, 2, 17, 128])
def test_datagrams_are_the_protocol_s(wire: Wire, tokens: int) -> None:
    layout = Work(FOUR_LAYERS, wire).layout(workers=3)
    made = workload(shape=FOUR_LAYERS, wire=wire)
    for matrix, grid in (
        (made.x(tokens), layout.x_grid()),
        (made.partial(tokens), layout.partial_grid()),
    ):
        spans = grid.spans(tokens)
        assert matrix.datagrams == len(spans)
        assert matrix.nbytes == spans[-1][1] + OVERHEAD * len(spans)


def test_constants_are_the_protocol_s() -> None:
    layout = Work(FOUR_LAYERS).layout(workers=1)
    assert layout.max_payload == MAX_PAYLOAD
    assert datagram.OVERHEAD + FRAME_HEADERS == OVERHEAD
    assert layout.window == WINDOW_CHUNKS
    assert Work(FOUR_LAYERS).layout(workers=100).window == SHARED_WINDOW_CHUNKS // 100
    assert PREFILL_CHUNK == ENGINE_CHUNK


def test_rows_that_are_short_share_a_datagram() -> None:
    codec = WireCodec(Wire.Q8_0.x, 128)
    small = workload(shape=FOUR_LAYERS.__class__(**vars(FOUR_LAYERS) | {"hidden": 128}))
    assert small.x(8).datagrams == 1
    assert small.x(8).nbytes == 8 * codec.row_bytes + OVERHEAD


def test_steps_of_a_prompt() -> None:
    assert workload(prompt=5).prefill_steps == (5,)
    assert workload(prompt=256).prefill_steps == (128, 128)
    assert workload(prompt=300).prefill_steps == (128, 128, 44)


def test_a_group_s_bytes() -> None:
    made = workload()
    shape = made.shape
    whole = shape.n_layers * shape.ffn_weights * shape.weight_bytes
    assert made.shape.group_bytes * shape.partition.n_groups == pytest.approx(whole)


@pytest.mark.parametrize(
    "settings", [{"prompt": 0}, {"answer": 0}, {"kl_budget": -1.0}, {"max_copies": 0}]
)
def test_no_workload(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="a workload has"):
        workload(**settings)


def test_a_calibration_of_another_model() -> None:
    with pytest.raises(ValueError, match="of another model"):
        workload(criticality=Criticality(np.ones((2, 88))))

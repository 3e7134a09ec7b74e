"""What activities cost a device, from its profile."""

from __future__ import annotations

import pytest
from tests.plan.clusters import FOUR_LAYERS, free

from halo_edge.plan.costs import Costs


def costs(**numbers: float) -> Costs:
    return Costs(free(**numbers), FOUR_LAYERS)


def test_few_tokens_are_bound_by_memory_many_by_arithmetic() -> None:
    made = costs(memory_bytes_per_s=1e9, flop_per_s=1e10)
    weights = FOUR_LAYERS.ffn_weights
    assert made.ffn_s(FOUR_LAYERS.ffn, 1) == pytest.approx(weights * 18 / 32 / 1e9)
    assert made.ffn_s(FOUR_LAYERS.ffn, 128) == pytest.approx(2 * weights * 128 / 1e10)
    assert made.ffn_s(FOUR_LAYERS.ffn // 2, 1) == pytest.approx(weights * 9 / 32 / 1e9)


def test_nothing_costs_nothing() -> None:
    made = costs(graph_s=1.0, add_s=1.0, seal_s=1.0, receive_s=1.0)
    assert made.ffn_s(0, 1) == made.add_s(0, 1) == made.seal_s(0, 0) == made.receive_s(0, 0) == 0


def test_datagrams_and_their_bytes() -> None:
    made = costs(seal_s=1e-3, receive_s=2e-3, crypto_s_per_byte=1e-6)
    assert made.seal_s(2, 1000) == pytest.approx(0.003)
    assert made.receive_s(2, 1000) == pytest.approx(0.005)


def test_attention_looks_at_every_cell() -> None:
    made = costs(kv_bytes_per_s=1e6)
    near_s, far_s = made.attention_s(1, 10), made.attention_s(1, 20)
    assert far_s == pytest.approx(2 * near_s)

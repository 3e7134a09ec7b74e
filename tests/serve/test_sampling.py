"""From a request's fields to the engine's parameters."""

from __future__ import annotations

from typing import Any

import pytest

from halo_edge.engine.sampling import SamplingParams
from halo_edge.serve.sampling import budget_of, params_of
from halo_edge.serve.schemas import HaloRequest, SamplingFields


def params(index: int = 0, **fields: Any) -> SamplingParams:
    request = SamplingFields(**fields)
    return params_of(request, max_tokens=None, logprobs=None, index=index)


def test_what_is_left_out_is_the_engines() -> None:
    assert params() == SamplingParams()
    assert params(temperature=None, stop=None) == SamplingParams()


def test_every_field_arrives() -> None:
    fields = {
        "temperature": 0.5,
        "top_p": 0.5,
        "top_k": 7,
        "min_p": 0.25,
        "repetition_penalty": 1.5,
        "presence_penalty": -1.0,
        "frequency_penalty": 1.0,
    }
    made = params(**fields, stop=["a", "b"], seed=3)
    assert {name: getattr(made, name) for name in fields} == fields
    assert made.stop == ("a", "b")
    assert made.seed == 3
    assert params(stop="a").stop == ("a",)
    request = SamplingFields()
    assert params_of(request, max_tokens=5, logprobs=2, index=0).max_tokens == 5


@pytest.mark.parametrize("seed", [-(2**63), -1, 0, 2**63 - 1])
def test_every_seed_of_openais_is_one(seed: int) -> None:
    first, second = params(0, seed=seed), params(1, seed=seed)
    assert first.seed is not None and second.seed is not None
    assert 0 <= first.seed != second.seed >= 0


def test_budget() -> None:
    assert budget_of(None) is None
    assert budget_of(HaloRequest()) is None
    assert budget_of(HaloRequest(kl_budget="strict")) == 0
    assert budget_of(HaloRequest(kl_budget="fast")) == 0.02
    assert budget_of(HaloRequest(kl_budget=0.1)) == 0.1

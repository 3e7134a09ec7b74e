"""Budgets as people write them."""

from __future__ import annotations

import pytest

from halo_edge.cli.relax_options import RelaxingOptions, parse_budget
from halo_edge.cluster.relaxation import RelaxOptions
from halo_edge.errors import HaloError
from halo_edge.groups.surrogate import Fill


def test_budgets() -> None:
    assert [parse_budget(text) for text in ("strict", "balanced", "fast", "0", "1e-3")] == [
        0,
        0.005,
        0.02,
        0,
        0.001,
    ]


@pytest.mark.parametrize("text", ["", "slow", "-1", "nan", "inf", "0.1 nats"])
def test_what_is_no_budget(text: str) -> None:
    with pytest.raises(HaloError, match="--kl-budget is a number of nats, or strict, balanced"):
        parse_budget(text)


def test_the_default_depends_on_the_profile() -> None:
    """Nothing is gone on without where nobody knows what it would cost."""
    assert RelaxingOptions().relax_options(has_profile=True) == RelaxOptions(kl_budget=0.005)
    assert RelaxingOptions().relax_options(has_profile=False) == RelaxOptions()
    assert RelaxingOptions(kl_budget="strict").relax_options(has_profile=False).kl_budget == 0
    with pytest.raises(HaloError, match="halo calibrate"):
        RelaxingOptions(kl_budget="fast").relax_options(has_profile=False)


def test_the_rest() -> None:
    given = RelaxingOptions(kl_budget="0.1", fill=Fill.MEAN, no_learning=True)
    assert given.relax_options(has_profile=True) == RelaxOptions(
        kl_budget=0.1, fill=Fill.MEAN, learning=False
    )

"""The damage of ranges of groups is what the damage model says."""

from __future__ import annotations

from typing import Any

import pytest
from tests.groups.conftest import profile_of

from halo_edge.groups.damage import DamageModel
from halo_edge.groups.surrogate import Fill
from halo_edge.plan.criticality import Criticality


@pytest.mark.parametrize("fill", [Fill.SKETCH, Fill.ZERO])
def test_as_the_damage_model_has_it(fill: Fill) -> None:
    profile: Any = profile_of(n_layers=3)
    shares = [range(3), range(3, 4), range(4, 4), range(4, 8)]
    damage, found = DamageModel(profile, shares, fill), Criticality.of(profile, fill)
    assert (found.n_layers, found.n_groups) == (3, 8)
    for device, share in enumerate(shares):
        expected = [damage.static(layer, device) for layer in range(3)]
        assert found.nats(share) == pytest.approx(expected, rel=1e-5)

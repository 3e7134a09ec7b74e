"""When the forwarder is not to be trusted."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from halo_edge.lab.forwarder_control import Status
from halo_edge.lab.forwarder_fabric import complaints

# 100 seconds, a fifth of a core.
FINE = Status(
    devices={}, frames=10_000, late=50, worst_late_s=0.004, behind_s=2.0, cpu_s=20.0, busy=0.2,
    overflowed=0,
)  # fmt: skip


def test_a_forwarder_that_keeps_up() -> None:
    assert complaints(FINE) == []
    assert complaints(msgspec.structs.replace(FINE, frames=0, late=0, cpu_s=0.0, busy=0.0)) == []


@pytest.mark.parametrize(
    ("state", "words"),
    [
        ({"late": 150}, "150 of 10,000 packets were forwarded over 1 ms late (worst: 4 ms)"),
        ({"behind_s": 25.0}, "waited for the forwarder in 25% of the time"),
        ({"overflowed": 7}, "no memory for 7 packets"),
    ],
)
def test_one_that_does_not(state: dict[str, Any], words: str) -> None:
    (complaint,) = complaints(msgspec.structs.replace(FINE, **state))
    assert words in complaint

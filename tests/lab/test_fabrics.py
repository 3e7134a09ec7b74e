"""The choice between netem and the forwarder."""

from __future__ import annotations

import pytest

from halo_edge.errors import HaloError
from halo_edge.lab import fabrics
from halo_edge.lab.spec import LabSpec, parse_spec

PLAIN = '[[device]]\nname = "n0"\nloss = 0.1\n'
NOT_FOR_NETEM = '[[device]]\nname = "n0"\njitter_ms = 1\nreorder = 0.5\n'
LATER_NOT_FOR_NETEM = (
    PLAIN + '[[event]]\nat_s = 1\naction = "link"\ndevice = "n0"\n'
    "link = { rate_mbit = 10, duplicate = 0.5 }\n"
)


def spec(devices: str, fabric: str | None = None) -> LabSpec:
    head = "" if fabric is None else f'fabric = "{fabric}"\n'
    return parse_spec((head + devices).encode(), "choice")


@pytest.fixture
def with_netem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fabrics, "available", lambda: True)


@pytest.fixture
def without_netem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fabrics, "available", lambda: False)


def test_netem_where_it_is(with_netem: None) -> None:
    assert fabrics.uses_netem(spec(PLAIN))
    assert fabrics.uses_netem(spec(PLAIN, "netem"))


def test_the_forwarder_where_it_is_not(without_netem: None) -> None:
    assert not fabrics.uses_netem(spec(PLAIN))


def test_netem_demanded_where_it_is_not(without_netem: None) -> None:
    with pytest.raises(HaloError, match=r"^lab choice: this kernel has no netem.*forwarder"):
        fabrics.uses_netem(spec(PLAIN, "netem"))


@pytest.mark.parametrize("devices", [NOT_FOR_NETEM, LATER_NOT_FOR_NETEM])
def test_what_netem_cannot_do_is_for_the_forwarder(with_netem: None, devices: str) -> None:
    assert not fabrics.uses_netem(spec(devices))
    with pytest.raises(HaloError, match=r"^lab choice: netem .*forwarder"):
        fabrics.uses_netem(spec(devices, "netem"))


def test_the_forwarder_on_demand(with_netem: None) -> None:
    assert not fabrics.uses_netem(spec(PLAIN, "forwarder"))


def test_there_is_no_other_kind() -> None:
    with pytest.raises(HaloError, match=r"fabric"):
        spec(PLAIN, "string")

"""Labs of other sizes."""

from __future__ import annotations

from dataclasses import replace

import pytest

from halo_edge.errors import HaloError
from halo_edge.lab.resize import resized
from halo_edge.lab.spec import Action, DeviceSpec, Event, read_spec


def test_workers_are_repeated_under_names_of_their_own() -> None:
    lab = read_spec("mixed-home")
    large = resized(lab, 10)
    assert large.devices[:4] == lab.devices
    assert len({device.name for device in large.devices}) == 10
    assert [d.profile for d in large.workers] == ["pi5", "pi4", "pi3"] * 3
    assert resized(large, 4) == lab
    assert len(resized(read_spec("paper"), 64).devices) == 64


def test_no_device_gets_the_name_of_a_client() -> None:
    lab = replace(read_spec("mixed-home"), clients=(DeviceSpec("n1"),))
    names = [machine.name for machine in resized(lab, 6).machines]
    assert len(set(names)) == 7


def test_what_cannot_be() -> None:
    lab = replace(read_spec("mixed-home"), events=(Event(3.0, Action.CUT, "shed"),))
    with pytest.raises(HaloError, match="with 3 devices has no shed, to which something happens"):
        resized(lab, 3)
    with pytest.raises(HaloError, match="no worker of which there could be more"):
        resized(resized(read_spec("paper"), 1), 2)

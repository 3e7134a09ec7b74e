"""For how long a device could be reached."""

from __future__ import annotations

from halo_edge.lab.reachability import Reachability


def test_times_add_up() -> None:
    reach = Reachability(3)
    reach.plugged(1, 10.0, False)
    reach.gone(1, 12.0)
    reach.plugged(1, 14.0, True)
    reach.back(1, 20.0)
    assert reach.reachable_s(1, 0.0, 30.0) == 20.0
    assert reach.reachable_s(1, 11.0, 19.0) == 0.0
    assert reach.reachable_s(1, 5.0, 25.0) == 10.0
    assert reach.reachable_s(2, 5.0, 25.0) == 20.0


def test_the_roots_cable_is_everybodys() -> None:
    reach = Reachability(2)
    reach.plugged(0, 1.0, False)
    reach.plugged(1, 2.0, False)
    reach.plugged(0, 3.0, True)
    reach.plugged(1, 4.0, True)
    assert reach.reachable_s(1, 0.0, 5.0) == 2.0

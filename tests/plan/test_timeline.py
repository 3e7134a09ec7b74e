"""A round, reckoned by hand: devices for which all but one thing costs nothing."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.plan.clusters import FOUR_LAYERS, free, link, workload

from halo_edge.plan.device import Cluster, Device, SharedCores
from halo_edge.plan.link import Link, OneWay
from halo_edge.plan.plan import Copies
from halo_edge.plan.timeline import Round, Timelines

N = FOUR_LAYERS.partition.n_groups
WORK = workload(shape=FOUR_LAYERS)
ONCE = Copies()


def round_of(
    n: int = 2,
    *,
    groups: tuple[int, ...] | None = None,
    way: Link | None = None,
    tokens: int = 1,
    copies: Copies = ONCE,
    cores: SharedCores | None = None,
    **numbers: float,
) -> Round:
    devices = tuple(
        Device(f"n{i}", free(**numbers), link=(way if i and way else Link()), cores=cores)
        for i in range(n)
    )
    timelines = Timelines(Cluster(devices), WORK)
    return timelines.round(groups or (1,) * n, [copies] * n, tokens)


def test_alone_there_is_only_computing() -> None:
    found = round_of(1, groups=(N,), memory_bytes_per_s=1e9, send_s=1.0)
    assert found.end_s == pytest.approx(FOUR_LAYERS.ffn_weights * FOUR_LAYERS.weight_bytes / 1e9)
    assert found.busy_s == (found.end_s,)


def test_alone_nothing_is_encoded_sent_or_waited_for() -> None:
    found = round_of(groups=(N, 0), encode_s=1.0, round_s=2.0, send_s=4.0, wake_s=8.0)
    assert (found.own_s, found.end_s) == pytest.approx((0.0, 0.0), abs=1e-9)
    assert found.busy_s == pytest.approx((0.0, 0.0), abs=1e-9)


def test_there_and_back() -> None:
    assert round_of(way=link(rtt_ms=6)).end_s == pytest.approx(0.006)


def test_who_has_nothing_is_not_asked() -> None:
    found = round_of(3, groups=(N - 1, 0, 1), way=link(rtt_ms=6), send_s=0.001)
    assert list(found.answers) == [2]
    assert found.end_s == pytest.approx(0.006 + 2 * 0.001 + 4 * 0.001)  # 2 chunks and 4
    assert found.busy_s[1] == 0


def test_every_datagram_costs_its_sender() -> None:
    """x has 2 chunks, a partial 4; x goes to all, chunk by chunk."""
    assert round_of(2, send_s=0.001).end_s == pytest.approx(0.006)
    assert round_of(3, send_s=0.001).end_s == pytest.approx(0.008)
    assert round_of(2, seal_s=0.001).end_s == pytest.approx(0.006)
    assert round_of(4, seal_s=0.001).end_s == pytest.approx(0.006)  # x is sealed once


def test_the_root_takes_partials_in_one_after_another() -> None:
    assert round_of(2, receive_s=0.001).end_s == pytest.approx(0.002 + 0.004)
    assert round_of(4, receive_s=0.001).end_s == pytest.approx(0.002 + 3 * 0.004)


def test_copies_cost_both_ends() -> None:
    found = round_of(2, send_s=0.001, copies=Copies(2, 3))
    assert found.scattered_s == pytest.approx(0.004)
    assert found.busy_s[1] == pytest.approx(0.012)
    assert round_of(2, receive_s=0.001, copies=Copies(2, 3)).end_s == pytest.approx(0.004 + 0.012)


def test_a_rate_is_of_bytes_on_the_wire() -> None:
    x, partial = WORK.x(1), WORK.partial(1)
    found = round_of(way=link(rtt_ms=0, mbit=8))  # 1e6 bytes a second
    assert found.end_s == pytest.approx((x.nbytes + partial.nbytes) / 1e6)


def test_the_root_s_link_is_shared() -> None:
    slow = OneWay(bytes_per_s=1e6)
    devices = [Device(f"n{i}", free()) for i in range(4)]
    devices[0] = replace(devices[0], link=Link(OneWay(), slow))
    found = Timelines(Cluster(tuple(devices)), WORK).round((1,) * 4, [Copies()] * 4, 1)
    assert found.end_s == pytest.approx(3 * WORK.partial(1).nbytes / 1e6, rel=0.01)


def test_on_one_core_computing_takes_turns() -> None:
    costs = {"memory_bytes_per_s": 1e9}
    apart = round_of(4, groups=(22, 22, 22, 22), **costs)
    turns = round_of(4, groups=(22, 22, 22, 22), cores=SharedCores("one"), **costs)
    assert turns.end_s == pytest.approx(4 * apart.end_s)
    pairs = round_of(4, groups=(22, 22, 22, 22), cores=SharedCores("two", 2), **costs)
    assert pairs.end_s == pytest.approx(2 * apart.end_s)


def test_of_a_long_x_the_rest_waits_for_the_root_s_own_part() -> None:
    costs = {"flop_per_s": 1e10}
    own_s = round_of(2, groups=(44, 44), tokens=8, **costs).own_s
    assert round_of(2, groups=(44, 44), tokens=8, **costs).end_s == pytest.approx(own_s)
    long = round_of(2, groups=(44, 44), tokens=128, **costs)  # 256 chunks, of which 64 go at once
    assert long.end_s == pytest.approx(2 * long.own_s)


def test_a_long_partial_is_pulled_window_by_window() -> None:
    found = round_of(way=link(rtt_ms=10), tokens=128)  # 256 chunks there, 512 back
    there_s, back_s = 0.010 / 2 + 2 * 0.010, 0.010 / 2 + 7 * 0.010
    assert found.end_s == pytest.approx(there_s + back_s)


def test_a_forwarder_passes_one_at_a_time() -> None:
    devices = tuple(Device(f"n{i}", free()) for i in range(2))
    timelines = Timelines(Cluster(devices, frame_s=0.001), WORK)
    found = timelines.round((1, 1), [Copies()] * 2, 1)
    assert found.end_s == pytest.approx(0.006)

"""What fits, what stays, and who else holds it."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st
from tests.plan.clusters import cluster, worker, workload

from halo_edge.plan.memory import PROCESS_BYTES, capacities, replicas, residents
from halo_edge.plan.plan import Plan, split

WORK = workload()


def test_capacities() -> None:
    group = WORK.group_bytes
    tight = replace(worker(), memory_bytes=int(PROCESS_BYTES + 10.5 * group))
    none = replace(worker(), memory_bytes=1)
    assert capacities(cluster(tight, worker(), none), WORK) == [88, 10, 88, 0]


def test_the_root_needs_more() -> None:
    bytes_ = int(PROCESS_BYTES + 50 * WORK.group_bytes)
    small = replace(cluster(worker()).root, memory_bytes=bytes_)
    both = cluster(replace(worker(), memory_bytes=bytes_), root=small)
    root, other = capacities(both, WORK)
    assert root < other == 50
    longer = capacities(both, workload(prompt=2000))[0]
    assert longer < root  # of its KV cache


def test_the_first_of_a_share_stay() -> None:
    shares = [range(4), range(10, 20), range(4, 10)]
    assert residents(shares, [2, 30, 0]) == (range(2), range(10, 20), range(4, 4))


def test_replicas_by_hand() -> None:
    shares = (range(4), range(4, 6), range(6, 10), range(10, 10))
    assert replicas(shares, [20, 5, 4, 0], [1, 2, 3]) == ((), (range(6, 9),), (), ())
    assert replicas(shares, [4, 2, 9, 0], [1, 2, 3]) == ((), (), (range(4, 6),), ())


@given(
    st.lists(st.integers(0, 9), min_size=2, max_size=6).filter(any), st.lists(st.integers(0, 40))
)
def test_replicas_fit_and_are_of_others(weights: list[int], more: list[int]) -> None:
    shares = split(40, weights).shares
    capacity = [len(share) + spare for share, spare in zip(shares, [*more, *[0] * 6], strict=False)]
    capacity = capacity[: len(shares)]
    held = replicas(shares, capacity, range(1, len(shares)))
    Plan(shares, replicas=held)  # raises for a group held twice
    every = [group for each in held for run in each for group in run]
    assert len(set(every)) == len(every)
    assert not held[0] and not set(every) & set(shares[0])
    for share, fits, runs in zip(shares, capacity, held, strict=True):
        assert len(share) + sum(map(len, runs)) <= fits

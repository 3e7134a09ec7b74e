"""Comparisons position by position, from scores made up here."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from halo_edge.bench.compared import Comparer, Comparison, Sample
from halo_edge.bench.compared_columns import compared_columns
from halo_edge.bench.cost import Cost, filled
from halo_edge.bench.lab_cluster import Links
from halo_edge.bench.markdown import table
from halo_edge.bench.probe_messages import Base, Score, Scored
from halo_edge.cluster.relaxation import RelaxOptions, Spent, Waiting
from halo_edge.engine.kl import Divergence
from halo_edge.lab.link import LinkSettings

RELAX = RelaxOptions(waiting=Waiting.NONE)
LOSSY = Links(LinkSettings(loss=0.1))


def scored(losses: list[float], kls: list[float] | None = None, **other: Any) -> Scored:
    fields: dict[str, Any] = {
        "same_top": len(losses),
        "steps_ms": [10.0] * 2 * len(losses),
        "tokens": 2 * len(losses),
        "spent": Spent(),
    }
    return Scored(0.0, losses, kls or [], **(fields | other))


def test_a_comparison_is_of_all_blocks() -> None:
    """The text's own ups and downs cancel: they are in both."""
    spent = Spent(chunks_filled=6, chunks_recovered=2, chunks_taken_over=4, nats=0.02)
    samples = [
        Sample(scored([1.0, 9.0]), scored([1.1, 9.1], [0.01, 0.03], spent=spent, same_top=1)),
        Sample(scored([5.0, 2.0]), scored([5.1, 2.1], [0.02, 0.02], steps_ms=[10, 10, 10, 90])),
    ]
    found = Comparison.of(samples)
    assert found.ppl_change == pytest.approx(math.exp(0.1) - 1)
    assert found.ppl_change_stderr == pytest.approx(0, abs=1e-9)
    assert found.divergence.kl == pytest.approx(0.02)
    assert found.divergence.same_top == 0.75
    assert found.cost == Cost(0.25, 0.75, 0.5, 0.0025)
    assert (found.tpot_ms, found.strict_tpot_ms, found.max_step_ms) == (20, 10, 90)


@pytest.mark.parametrize(
    ("measured", "reported", "honest"),
    [
        (0.0, 0.0, True),
        (0.0019, 0.0, True),
        (0.0021, 0.0, False),
        (0.009, 0.005, True),
        (0.010, 0.005, False),
        (0.002, 0.005, True),
        (0.001, 0.005, False),
    ],
)
def test_honesty(measured: float, reported: float, honest: bool) -> None:
    divergence = Divergence(measured, 0.0, 0.0, 1.0, 100)
    found = Comparison(0.0, 0.0, divergence, Cost(0, 0, 0, reported), 1, 1, 1)
    assert found.honest is honest
    (line,) = table(compared_columns(lambda row: row), [found]).splitlines()[2:]
    assert ("yes" in line) is honest


def test_costs_of_old_results() -> None:
    assert filled(None) == "-"
    assert filled(Cost.of([Spent(chunks_filled=3), Spent(chunks_filled=6)], 4)) == "2.25"


class FakeCluster:
    """Notes what it is asked for."""

    def __init__(self) -> None:
        self.asked: list[tuple[Any, ...]] = []
        self._relax = RelaxOptions()

    def relax(self, options: RelaxOptions) -> None:
        self._relax = options

    def score(self, links: Links, request: Score) -> Scored:
        asked = (request.base, request.first, request.windows, request.step_tokens)
        self.asked.append((*asked, self._relax is RELAX, links is LOSSY))
        return scored([1.0], [0.0])


def test_each_block_has_one_base() -> None:
    """Strict, over clean links, in the same steps; made when it is first wanted."""
    cluster: Any = FakeCluster()
    comparer = Comparer(cluster, Path("text"), 64, windows=2)
    for case in ("a", "b", "a"):
        comparer.compare(case, RELAX, LOSSY)
    comparer.compare("in prefill", RELAX, LOSSY, 128)
    assert cluster.asked == [
        (Base.KEEP, 0, 2, 1, False, False),
        (Base.COMPARE, 0, 2, 1, True, True),
        (Base.COMPARE, 0, 2, 1, True, True),
        (Base.KEEP, 2, 2, 1, False, False),
        (Base.COMPARE, 2, 2, 1, True, True),
        (Base.KEEP, 0, 2, 128, False, False),
        (Base.COMPARE, 0, 2, 128, True, True),
    ]


def test_learning_comes_before_what_is_compared() -> None:
    cluster: Any = FakeCluster()
    Comparer(cluster, Path("text"), 64, windows=2).compare("a", RELAX, LOSSY, skip=5, learn=4)
    assert cluster.asked == [
        (Base.KEEP, 5, 2, 1, False, False),
        (Base.NONE, 0, 4, 1, True, True),
        (Base.COMPARE, 5, 2, 1, True, True),
    ]

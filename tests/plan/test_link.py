"""Links: what two ways after one another are, and what is missing."""

from __future__ import annotations

import math

import pytest

from halo_edge.plan.link import Link, OneWay


def test_two_ways_one_after_another() -> None:
    both = OneWay(0.001, 0.002, 1e6, 0.1).then(OneWay(0.003, 0.0, 1e5, 0.2))
    assert (both.delay_s, both.jitter_s, both.bytes_per_s) == (0.004, 0.002, 1e5)
    assert both.loss == pytest.approx(1 - 0.9 * 0.8)
    assert both.lost_again == pytest.approx(both.loss)


def test_copies_help_against_chance_and_not_against_bursts() -> None:
    assert OneWay(loss=0.1).missing(1) == 0.1
    assert OneWay(loss=0.1).missing(3) == pytest.approx(0.001)
    assert OneWay(loss=0.1, again=1.0).missing(3) == 0.1
    assert OneWay(loss=0.1, again=0.0).missing(2) == pytest.approx(0.01)  # never below the loss


def test_of_several_jitters_the_greatest_counts() -> None:
    way = OneWay(0.001, 0.006)
    assert way.passes_s(1) == pytest.approx(0.004)
    assert way.passes_s(5) == pytest.approx(0.006)


def test_alike() -> None:
    link = Link.alike(rtt_s=0.002, loss=0.05)
    assert link.up == link.down == OneWay(0.001, loss=0.05)
    assert link.up.bytes_per_s == math.inf


@pytest.mark.parametrize(
    "settings",
    [
        {"delay_s": -1.0},
        {"delay_s": math.inf},
        {"jitter_s": math.nan},
        {"bytes_per_s": 0.0},
        {"loss": 1.0},
        {"loss": -0.1},
        {"loss": math.nan},
        {"again": 1.5},
    ],
)
def test_what_makes_no_sense(settings: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="link"):
        OneWay(**settings)

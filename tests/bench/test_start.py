"""What is made of measurements of starts, and a small one."""

from __future__ import annotations

import pytest

from halo_edge.bench.median import Reading
from halo_edge.bench.start import START, Case, Sample
from halo_edge.lab.shapes import read_shape

SHAPE = read_shape("tinyllama-1.1b")


def test_what_must_move() -> None:
    """Of equal shares, that of three quarters."""
    everything = SHAPE.group_bytes * SHAPE.partition.n_groups
    assert Case((1, 1, 1, 1)).must_move_bytes(SHAPE) == pytest.approx(0.75 * everything)
    assert Case(()).must_move_bytes(SHAPE) == 0


def test_rows() -> None:
    late = Sample(Reading(90.0, cut_short=True), Reading(4.0), 5, 100e6)
    soon = Sample(Reading(10.0), Reading(1.0), 7, 100e6)
    split, scheduled = START.rows({Case((1, 1, 1, 1)): [soon, soon, late], Case(()): [late]})
    assert (split.cold_s, split.warm_s, split.moved_packets) == (10.0, 1.0, 7)
    assert split.target_s == pytest.approx(1.2 * 8 + 2)
    assert (scheduled.cold_s, scheduled.cold_at_least_s) == (None, 90.0)
    assert "> 90.0" in START.table([split, scheduled])

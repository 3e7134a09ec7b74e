"""Clusters in the simulator, as the scheduler would have them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from halo_edge.bench.experiment import Settings, Size, measure
from halo_edge.bench.result import document, rows_of
from halo_edge.bench.scale import DEVICES, KINDS, LOSS, SCALE


def replaced(cases: list[Any]) -> Any:
    """With these cases only."""
    return replace(SCALE, cases=lambda _: cases)


def test_profiles_take_turns() -> None:
    spec = KINDS[1].spec(5, LOSS, seed=7)
    assert [device.profile for device in spec.devices] == ["pi5", "pi4", "pi3", "pi5", "pi4"]
    assert [device.up.loss for device in spec.devices] == [0, LOSS, LOSS, LOSS, LOSS]
    assert spec.seed == 7


def test_every_cluster_is_measured() -> None:
    cases = SCALE.cases(Settings(Path("tinyllama-1.1b"), SCALE.full))
    assert len(cases) == len(KINDS) * 2 * len(DEVICES)


def test_rows() -> None:
    """One device and four: the same to the figure each time, as links lose nothing."""
    settings = Settings(Path("tinyllama-1.1b"), Size(2, 2, 60.0))
    cases = [
        case
        for case in SCALE.cases(settings)
        if case.kind is KINDS[0] and case.devices in (1, 4) and not case.loss
    ]
    made = replaced(cases)
    one, four = rows_of(document(made, settings, measure(made, settings, lambda _: None)), made)
    assert (one.devices, one.used, four.devices) == (1, 1, 4)
    assert one.tpot_ms == one.equal_ms == pytest.approx(one.predicted_ms, rel=0.05)
    assert one.bound_ms == pytest.approx(one.predicted_ms, rel=0.05)
    assert four.tpot_ms <= four.equal_ms
    assert four.interval_ms is not None and four.interval_ms.low == four.interval_ms.high
    assert four.bound_ms < four.tpot_ms
    assert "| all Pi 4 |  0 % |       4 |" in SCALE.table([one, four])


def test_plot() -> None:
    pytest.importorskip("matplotlib")
    settings = Settings(Path("tiny"), Size(1, 1, 60.0))
    cases = [case for case in SCALE.cases(settings) if case.devices <= 2]
    rows = measure(replaced(cases), settings, lambda _: None).rows
    assert SCALE.plot is not None
    assert len(SCALE.plot(rows).axes) == 2 * len(KINDS)

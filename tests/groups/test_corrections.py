"""What is measured corrects what is predicted: all together soon, each by itself later."""

from __future__ import annotations

import pytest

from halo_edge.groups.corrections import OWN_ROWS, Corrections

LAYERS, DEVICES = 4, (1, 2)


class Damage:
    """The part of a damage model that is corrected."""

    def __init__(self) -> None:
        self.factors: dict[tuple[int, int], float] = {}

    def mean_lost_energy(self, layer: int, device: int) -> float:
        return 10.0 ** (layer + device)

    def correct(self, layer: int, device: int, factor: float) -> None:
        self.factors[layer, device] = factor


def corrections(damage: Damage) -> Corrections:
    return Corrections(damage, LAYERS, DEVICES)  # type: ignore[arg-type]


def feed(
    corrected: Corrections, damage: Damage, layer: int, i: int, rows: int, ratio: float
) -> None:
    predicted = damage.mean_lost_energy(layer, DEVICES[i]) * rows
    corrected.add(layer, i, rows, ratio * predicted, predicted)


def test_nothing_seen_corrects_nothing() -> None:
    damage = Damage()
    corrections(damage).apply()
    assert set(damage.factors.values()) == {1.0}


def test_what_some_show_is_soon_believed_of_all() -> None:
    damage = Damage()
    corrected = corrections(damage)
    for layer in (0, 1):
        for i in (0, 1):
            feed(corrected, damage, layer, i, 100, 2.0)
    corrected.apply()
    assert damage.factors[3, 2] == pytest.approx(2.0, rel=0.1)


def test_each_has_its_own_in_the_end() -> None:
    damage = Damage()
    corrected = corrections(damage)
    for _ in range(int(OWN_ROWS)):
        for layer in range(LAYERS):
            for i in (0, 1):
                feed(corrected, damage, layer, i, 10, 4.0 if (layer, i) == (2, 1) else 1.0)
    corrected.apply()
    assert damage.factors[2, 2] == pytest.approx(4.0, rel=0.15)
    assert damage.factors[2, 1] == pytest.approx(1.0, rel=0.15)


def test_what_was_true_is_forgotten() -> None:
    damage = Damage()
    corrected = corrections(damage)
    for ratio in (5.0, 0.5):
        for _ in range(400):
            for layer in range(LAYERS):
                for i in (0, 1):
                    feed(corrected, damage, layer, i, 10, ratio)
    corrected.apply()
    assert damage.factors[0, 1] == pytest.approx(0.5, rel=0.1)

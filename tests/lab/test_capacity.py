"""What counts as keeping up, and that measuring works; the figures are the machine's."""

from __future__ import annotations

from pathlib import Path

import pytest

from halo_edge.errors import HaloError
from halo_edge.lab import capacity
from halo_edge.lab.capacity import LAB, Trial, measure_capacity
from halo_edge.lab.names import LabNames


@pytest.mark.parametrize(
    ("trial", "kept_up"),
    [
        (Trial(10_000, 10_000, 10_000, behind=0.0, busy=0.5), True),
        (Trial(10_000, 10_000, 9_991, behind=0.1, busy=1.0), True),
        (Trial(10_000, 10_000, 9_980, behind=0.0, busy=0.5), False),
        (Trial(10_000, 10_000, 10_000, behind=0.2, busy=0.5), False),
    ],
)
def test_to_keep_up_is_to_lose_nothing_and_be_behind_rarely(trial: Trial, kept_up: bool) -> None:
    assert trial.kept_up == kept_up


def test_what_could_not_be_sent_shows_nothing() -> None:
    assert Trial(10_000, 9_600, 9_600, behind=0.0, busy=0.5).was_sent
    assert not Trial(10_000, 9_400, 9_400, behind=0.0, busy=0.5).was_sent


@pytest.fixture
def tun(root_user: None) -> None:
    if not Path("/dev/net/tun").exists():
        pytest.skip("needs /dev/net/tun")


def test_measured_and_nothing_left(tun: None) -> None:
    lines: list[str] = []
    found = measure_capacity(lines.append, rates=[500, 1000], trial_s=0.2)
    assert 400 <= found.packets_per_s <= 1000
    assert 0 < found.latency_median_s <= found.latency_p99_s < 1
    assert 0 < found.busy < 1
    assert len(lines) == 2
    assert not LabNames(LAB).directory.exists()


def test_nothing_kept_up(tun: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capacity, "MAX_BEHIND", -1.0)
    with pytest.raises(HaloError, match=r"^the forwarder cannot carry 500 packets/s; is this "):
        measure_capacity(rates=[500], trial_s=0.05)

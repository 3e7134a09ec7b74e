"""How much of the processors' time the host gave to others."""

from __future__ import annotations

from pathlib import Path

import pytest

from halo_edge.bench.stolen_time import StolenTime


def written(stat: Path, stolen_ticks: int) -> Path:
    stat.write_text(
        f"cpu  9 9 9 9 9 9 9 {stolen_ticks} 0 0\ncpu0 1 1 1 1 1 1 1 1 0 0\n"
        "cpu1 1 1 1 1 1 1 1 1 0 0\nintr 5\n"
    )
    return stat


def test_a_share_of_all_processors(tmp_path: Path) -> None:
    now = [100.0]
    stolen = StolenTime(written(tmp_path / "stat", 500), lambda: now[0])
    now[0] += 10
    assert stolen.share == 0
    written(tmp_path / "stat", 800)
    assert stolen.share == pytest.approx(3 / 20)
    now[0] -= 6
    assert stolen.share == 0  # too short a time to tell


@pytest.mark.parametrize("text", ["", "cpu 1 2\n", "cpu a b c d e f g h i\n"])
def test_where_nobody_says_nothing_is(tmp_path: Path, text: str) -> None:
    (tmp_path / "stat").write_text(text)
    assert StolenTime(tmp_path / "stat").share == 0
    assert StolenTime(tmp_path / "none").share == 0

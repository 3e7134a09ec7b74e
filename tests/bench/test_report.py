"""docs/RESULTS.md holds what its results say, and nothing that was typed into a table."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from halo_edge.bench.report import render
from halo_edge.errors import HaloError

DOCS = Path(__file__).parents[2] / "docs"
RECORDED = {
    "speed": {
        "date": "2026-01-01",
        "machine": "a machine",
        "how": "with a stopwatch.",
        "columns": ["what", "ms"],
        "rows": [["one", "1"], ["two", "22"]],
    }
}


@pytest.fixture
def results(tmp_path: Path) -> Path:
    (tmp_path / "recorded.json").write_text(json.dumps(RECORDED))
    return tmp_path


def test_the_page_is_made_of_the_results() -> None:
    page = (DOCS / "RESULTS.md").read_text()
    assert render(page, DOCS / "results", "results") == page
    assert page.count("<!-- end -->") > 8


def test_a_block_is_replaced_as_a_whole_and_again(results: Path) -> None:
    page = "# A\n\n<!-- recorded: speed -->\nold\n<!-- end -->\n\nB\n"
    made = render(page, results, "results")
    assert "old" not in made
    assert "| two  | 22 |" in made
    assert "Recorded by hand, 2026-01-01, a machine: with a stopwatch." in made
    assert made.startswith("# A\n\n<!--") and made.endswith("<!-- end -->\n\nB\n")
    assert render(made, results, "results") == made


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("recorded: weight", "has no table 'weight'"),
        ("loss", "cannot read"),
        ("weather", "is no experiment"),
    ],
)
def test_a_block_without_results(results: Path, name: str, words: str) -> None:
    with pytest.raises(HaloError, match=words):
        render(f"<!-- {name} -->\n<!-- end -->\n", results, "results")


def test_every_plot_of_the_page_is_there() -> None:
    page = (DOCS / "RESULTS.md").read_text()
    names = [line.split("(")[1].rstrip(")") for line in page.splitlines() if line.startswith("![")]
    assert names
    for name in names:
        assert (DOCS / name).read_text().startswith("<?xml")

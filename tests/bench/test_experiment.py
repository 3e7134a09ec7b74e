"""The frame of experiments: who is measured when, and what of it is kept."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from halo_edge.bench.experiment import (
    Experiment,
    Opened,
    Settings,
    Size,
    Tell,
    by_itself,
    measure,
    sized,
    turns,
)
from halo_edge.bench.markdown import Column, table
from halo_edge.bench.plot import Point, axes, draw_series, to_svg
from halo_edge.bench.result import document, read_document, rows_of, to_json
from halo_edge.errors import HaloError


@dataclass(frozen=True)
class Case:
    name: str


@dataclass(frozen=True)
class Sample:
    order: int


@dataclass(frozen=True)
class Row:
    name: str
    orders: list[int]


def experiment(
    case_names: str = "abc", warnings: Sequence[str] = ()
) -> Experiment[Case, Sample, Row]:
    """Measures how often it was asked before."""

    @contextmanager
    def opened(_: Settings, cases: Sequence[Case], tell: Tell) -> Iterator[Opened[Case, Sample]]:
        asked = iter(range(1000))
        tell(f"{len(cases)} are open")
        yield Opened(lambda _: Sample(next(asked)), lambda: list(warnings))

    def rows(taken: Mapping[Case, Sequence[Sample]]) -> list[Row]:
        return [Row(case.name, [s.order for s in samples]) for case, samples in taken.items()]

    return Experiment(
        name="order",
        row=Row,
        model=None,
        full=Size(3, 10, 1.0),
        quick=Size(2, 5, 1.0),
        cases=lambda _: [Case(name) for name in case_names],
        open=opened,
        rows=rows,
        table=lambda found: table([Column[Row]("name", lambda row: row.name, left=True)], found),
        plot=None,
    )


def settings(repetitions: int) -> Settings:
    return Settings(Path("model.gguf"), Size(repetitions, 10, 1.0))


def test_cases_take_turns_forth_and_back() -> None:
    order = " ".join(f"{repetition}{case}" for repetition, case in turns("abc", 3))
    assert order == "0a 0b 0c 1c 1b 1a 2a 2b 2c"
    told: list[str] = []
    measured = measure(experiment(warnings=["too hot"]), settings(2), told.append)
    assert measured.rows == [Row("a", [0, 5]), Row("b", [1, 4]), Row("c", [2, 3])]
    assert measured.warnings == ["too hot"]
    assert told[0] == "3 are open"
    assert told[-1] == "order 2/2, a: Sample(order=5)"


@dataclass(frozen=True)
class Stolen:
    share: float


def test_a_measurement_that_the_host_disturbed_is_made_again() -> None:
    told: list[str] = []
    shares: Any = iter([0.2, 0.01, 0.0, 0.3, 0.1, 0.2])
    found = measure(experiment(), settings(1), told.append, lambda: Stolen(next(shares)))
    assert [row.orders for row in found.rows] == [[1], [2], [4]]
    assert found.warnings == [
        "c: the host of this machine gave 10% of its processors' time to others"
    ]
    assert sum("to others" in line for line in told) == 4


def test_what_is_thrown_away_warns_of_nothing() -> None:
    asked = iter(range(10))

    def measured(_: Settings, case: Case, tell: Tell) -> tuple[Sample, list[str]]:
        order = next(asked)
        return Sample(order), [f"{order} was late"]

    shares: Any = iter([0.2, 0.01, 0.0])
    again = replace(experiment("ab"), open=by_itself(measured))
    found = measure(again, settings(1), lambda _: None, lambda: Stolen(next(shares)))
    assert found.warnings == ["a: 1 was late", "b: 2 was late"]


def test_a_case_twice_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="twice"):
        measure(experiment("aa"), settings(1), lambda _: None)


def test_sizes() -> None:
    assert sized(Size(3, 10, 2.0), tokens=4) == Size(3, 4, 2.0)
    with pytest.raises(HaloError, match="nothing to measure"):
        sized(Size(3, 10, 2.0), repetitions=0)


def test_a_result_is_written_and_read_again(tmp_path: Path) -> None:
    """With all that one must know to trust it, and nothing of where it was measured from."""
    order = experiment()
    result = document(order, settings(2), measure(order, settings(2), lambda _: None))
    path = tmp_path / "order.json"
    path.write_text(to_json(result))
    assert read_document(path) == result
    assert rows_of(result, order) == [Row("a", [0, 5]), Row("b", [1, 4]), Row("c", [2, 3])]
    raw = json.loads(path.read_text())
    assert raw["command"] == "halo bench order --repetitions 2"
    assert raw["model"] == "model.gguf"
    assert {"cpu", "cores", "kernel", "python", "ggml_python"} <= raw["machine"].keys()


def test_a_file_that_is_no_result(tmp_path: Path) -> None:
    path = tmp_path / "order.json"
    with pytest.raises(HaloError, match="cannot read"):
        read_document(path)
    path.write_text('{"rows": []}')
    with pytest.raises(HaloError, match="is no result of `halo bench`"):
        read_document(path)
    order = experiment()
    result = document(order, settings(1), measure(order, settings(1), lambda _: None))
    result.rows[0]["orders"] = "none"
    with pytest.raises(HaloError, match="measure again with `halo bench order --repetitions 1`"):
        rows_of(result, order)


def test_tables() -> None:
    columns = [
        Column[tuple[str, int]]("name", lambda row: row[0], left=True),
        Column[tuple[str, int]]("n", lambda row: str(row[1])),
    ]
    assert table(columns, [("a|b", 1), ("c", 100)]) == (
        "| name |   n |\n| ---- | --: |\n| a\\|b |   1 |\n| c    | 100 |"
    )


def test_the_same_plot_is_the_same_file() -> None:
    pytest.importorskip("matplotlib")

    def svg() -> str:
        with axes("x", "y, ms") as (figure, plot):
            draw_series(plot, 0, "a", [Point(0, 1), Point(1, 2, at_least=True)])
        return to_svg(figure)

    assert svg() == svg()
    assert svg().startswith("<?xml")

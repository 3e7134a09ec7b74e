"""The queries in the documents, Grafana's dashboard among them, ask for what `/metrics` has."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from types import SimpleNamespace
from typing import Any

import pytest
from tests.serve.test_metrics import DEVICES, DOCS, LOAD, FakeCluster, answered

from halo_edge.serve.metrics import Metrics

DASHBOARD: dict[str, Any] = json.loads(
    (DOCS / "grafana" / "halo-edge.json").read_text(encoding="utf-8")
)
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
TARGETS = [target for panel in PANELS for target in panel["targets"]]
QUESTIONS = re.findall(
    r"^\| .* \| `(.*)` \|$", (DOCS / "metrics.md").read_text(encoding="utf-8"), re.MULTILINE
)
SELECTOR = re.compile(r"\b((?:halo|process)_\w+)(\{[^}]*\})?(\[[^\]]*\])?")
# What a query may have besides: functions, and numbers.
REST = re.compile(
    r"(sum|min|max|rate|increase|histogram_quantile|by \(\w+\)|[()/, ]|0\.\d+|== 0|> 0)*"
)


@pytest.fixture(scope="module")
def labels() -> Mapping[str, set[str]]:
    """Of each name that samples have."""
    metrics = Metrics(lambda: LOAD, FakeCluster(*DEVICES))
    metrics.requests.ended(answered())
    found: dict[str, set[str]] = {}
    for family in metrics.registry.collect():
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    return found


def selected(query: str) -> Iterator[tuple[str, bool]]:
    """The names in it, and whether they are looked at over a time."""
    for match in SELECTOR.finditer(query):
        yield match[1], match[3] is not None


@pytest.mark.parametrize("query", [*(target["expr"] for target in TARGETS), *QUESTIONS])
def test_queries(labels: Mapping[str, set[str]], query: str) -> None:
    names = list(selected(query))
    assert names
    for name, over_time in names:
        assert name in labels
        # What only grows says nothing by itself, and of what does not there is no rate.
        assert over_time == name.endswith(("_total", "_sum", "_count", "_bucket"))
        for label in re.findall(r"by \((\w+)\)", query):
            assert label in labels[name]
    assert REST.fullmatch(SELECTOR.sub("", query)), query
    assert query.count("(") == query.count(")")
    assert query.count("rate(") + query.count("increase(") == sum(over for _, over in names)


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target["expr"])
def test_of_the_dashboard(labels: Mapping[str, set[str]], target: Mapping[str, Any]) -> None:
    """It asks for the root that was chosen, and what it writes beside a line is known of it."""
    query = target["expr"]
    assert all(match[2] == '{instance=~"$instance"}' for match in SELECTOR.finditer(query))
    (name, _), *_ = selected(query)
    kept = set(re.findall(r"by \((\w+)\)", query)) - {"le"}
    if not kept and not query.startswith(("sum", "min", "max", "histogram")):
        kept = labels[name]
    assert set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"])) <= kept


def test_there_are_some() -> None:
    assert len(TARGETS) > 30
    assert len(QUESTIONS) > 4
    assert len({name for target in TARGETS for name, _ in selected(target["expr"])}) > 20


def test_it_asks_which_prometheus_and_which_root(labels: Mapping[str, set[str]]) -> None:
    variables = {v["name"]: v for v in DASHBOARD["templating"]["list"]}
    assert variables["datasource"]["type"] == "datasource"
    (name,) = re.findall(
        r"label_values\((\w+), instance\)", variables["instance"]["query"]["query"]
    )
    assert name in labels
    chosen = {"type": "prometheus", "uid": "${datasource}"}
    assert all(each["datasource"] == chosen for each in [*PANELS, *TARGETS])


def test_panels_have_a_place_of_their_own() -> None:
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        place = SimpleNamespace(**panel["gridPos"])
        assert place.w > 0 and place.x + place.w <= 24
        cells = {(place.x + i, place.y + j) for i in range(place.w) for j in range(place.h)}
        assert not cells & taken, panel["title"]
        taken |= cells

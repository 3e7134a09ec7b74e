"""What `halo run --stats` prints, from figures made up here."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from rich.console import Console

from halo_edge.cli.report import spent_fields
from halo_edge.cli.stats import device_table, layer_table, total
from halo_edge.cluster.relaxation import Spent
from halo_edge.sync.peer import LinkReport

SPENT = Spent(
    rounds=300,
    chunks_recovered=40,
    chunks_filled=7,
    chunks_taken_over=5,
    nats=0.01,
    filled_by_device={2: 7},
    filled_by_layer={11: 3, 4: 4},
    nats_by_layer={11: 0.006, 4: 0.004},
    taken_over_by_device={1: 5},
    away={1: 1},
)
LINKS = {
    1: LinkReport(None, None, None, 0.0, 0.0, 0.0, 0.0, 1, 1),
    2: LinkReport(0.0021, 0.0045, 0.004, 0.1, 0.123, 0.1, 0.123, 2, 3),
}


def shown(table: Any) -> list[list[str]]:
    """The words of each line, as 80 columns have room for them."""
    console = Console(width=80)
    with console.capture() as captured:
        console.print(table)
    return [line.split() for line in captured.get().splitlines() if line.strip(" ─")]


def test_devices() -> None:
    workers = {1: SimpleNamespace(worker="pi-kitchen"), 2: SimpleNamespace(worker="pi-attic")}
    cluster: Any = SimpleNamespace(workers=workers, link_reports=lambda: LINKS)
    heading, first, second = shown(device_table(cluster, SPENT))
    assert heading[:2] == ["device", "filled"]
    assert first == ["pi-kitchen", "0", "5", "1", "-", "-", "0.0/0.0", "1/1"]
    assert second == ["pi-attic", "7", "0", "0", "2.1", "4.5", "10.0/12.3", "2/3"]


def test_layers_are_in_order() -> None:
    _, first, second = shown(layer_table(SPENT))
    assert first == ["4", "4", "0.00400"]
    assert second == ["11", "3", "0.00600"]


def test_the_sum_is_that_of_json() -> None:
    assert total(SPENT) == (
        "300 rounds; chunks: 40 recovered, 7 filled, 5 taken over; "
        "0.01000 nats predicted, fidelity 0.9900"
    )
    fields = spent_fields(SPENT)
    assert fields["fidelity"] == SPENT.fidelity
    assert (fields["chunks_recovered"], fields["chunks_filled"]) == (40, 7)
    assert (fields["chunks_taken_over"], fields["nats"]) == (5, 0.01)


def test_rounds_that_could_not_be_relaxed_are_told() -> None:
    spent = Spent(rounds=300, strict_rounds=60)
    assert total(spent).startswith("300 rounds, 60 of them before fills were there; chunks: 0")
    assert spent_fields(spent)["strict_rounds"] == 60
    assert spent.since(Spent(rounds=100, strict_rounds=50)).strict_rounds == 10

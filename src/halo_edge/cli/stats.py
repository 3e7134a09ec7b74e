"""What the rounds of a generation needed beyond what came by itself: by device, and by layer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from rich.box import SIMPLE_HEAD
from rich.table import Table

from halo_edge.cluster.relaxation import Spent

if TYPE_CHECKING:
    from halo_edge.cluster.root import Cluster
    from halo_edge.sync.peer import LinkReport

# To the device, and from it.
_LINK: Final = ("RTT, ms", "answer, ms", "lost, %", "copies")


def stats_of(cluster: Cluster | None, spent: Spent | None) -> list[Table | str]:
    """To be printed one below the other; nothing for one device. `spent`: by the generation; how
    the links are is of now."""
    if cluster is None or spent is None:
        return []
    layers = [layer_table(spent)] if spent.filled_by_layer else []
    return [device_table(cluster, spent), *layers, total(spent)]


def device_table(cluster: Cluster, spent: Spent) -> Table:
    """A row for each worker: chunks of its partials, how often it was away, and its link, to it and
    from it, as the root estimates it."""
    table = _table("device", "filled", "taken over", "away", *_LINK)
    links = cluster.link_reports()
    for device, worker in cluster.workers.items():
        table.add_row(
            worker.worker,
            str(spent.filled_by_device.get(device, 0)),
            str(spent.taken_over_by_device.get(device, 0)),
            str(spent.away.get(device, 0)),
            *_link(links.get(device)),
        )
    return table


def _link(link: LinkReport | None) -> list[str]:
    """None: of a worker that is in the plan no more."""
    if link is None:
        return ["-" for _ in _LINK]
    return [
        _ms(link.srtt_s),
        _ms(link.answer_s),
        f"{link.loss_to * 100:.1f}/{link.loss_from * 100:.1f}",
        f"{link.copies_to}/{link.copies_from}",
    ]


def layer_table(spent: Spent) -> Table:
    """The layers in which something was filled."""
    table = _table("layer", "filled", "nats")
    for layer, filled in sorted(spent.filled_by_layer.items()):
        table.add_row(str(layer), str(filled), f"{spent.nats_by_layer.get(layer, 0.0):.5f}")
    return table


def total(spent: Spent) -> str:
    """One line."""
    strict = f", {spent.strict_rounds} of them before fills were there" * bool(spent.strict_rounds)
    return (
        f"{spent.rounds} rounds{strict}; chunks: {spent.chunks_recovered} recovered, "
        f"{spent.chunks_filled} filled, {spent.chunks_taken_over} taken over; "
        f"{spent.nats:.5f} nats predicted, fidelity {spent.fidelity:.4f}"
    )


def _table(first: str, *numbers: str) -> Table:
    table = Table(box=SIMPLE_HEAD, padding=(0, 0, 0, 1))
    table.add_column(first)
    for heading in numbers:
        table.add_column(heading, justify="right")
    return table


def _ms(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds * 1e3:.1f}"

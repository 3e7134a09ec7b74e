"""A plan in words: a table of its devices, and what there is to say of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Final

from rich.table import Table

from halo_edge.plan.prediction import Prediction
from halo_edge.plan.schedule import LeftOut, Schedule
from halo_edge.plan.step import Part
from halo_edge.plan.what_if import WhatIf
from halo_edge.plan.workload import Workload

_PARTS: Final = {
    Part.SERIAL: "what the root does alone, attention and head",
    Part.SCATTER: "the root's sending x to its workers",
    Part.COMPUTE: "the FFN of {device}",
    Part.NETWORK: "the network: x to {device}, and its partial back",
    Part.GATHER: "the root's taking in partials",
    Part.LOSSES: "waiting for what is lost on the way",
    Part.QUOTA: "the CPU time that {device} may use",
    Part.STORAGE: "the storage of {device}, from which weights are read for each token",
}
NAMED: Final = 5
"""Of devices that are left out for the same reason, so many are named."""
WORTH_TELLING: Final = 0.005
"""Less than that does not change a TPOT."""


def device_table(found: Schedule, title: str, relaxes: bool) -> Table:
    """A row a device. Times are of a decoded token, all layers together."""
    table = Table(title=title, box=None, title_justify="left", pad_edge=False)
    columns = ["share", "groups", "compute, ms", "link, ms", "load, ms", "expected wait, ms"]
    table.add_column("device")
    for column in (*columns, "copies", *(["damage, nats"] if relaxes else [])):
        table.add_column(column, justify="right")
    for d, device in enumerate(found.prediction.devices):
        copies = found.plan.copies_on(d)
        takes_part = d > 0 and device.groups
        times = (device.compute_s, device.link_s, device.load_s, device.wait_s)
        cells = [
            f"{device.share:.0%}",
            str(device.groups),
            *(f"{seconds * 1e3:.1f}" if seconds else "-" for seconds in times),
            f"{copies.x}/{copies.partial}" if takes_part else "-",
        ]
        if relaxes:
            cells.append(f"{device.damage_nats:.5f}" if takes_part else "-")
        table.add_row(device.name, *cells)
    return table


def sentences(found: Schedule, changed: WhatIf, workload: Workload) -> Iterator[str]:
    """TPOT and TTFT, the bottleneck, who is left out and why, and what would help."""
    prediction = found.prediction
    yield (
        f"predicted: TPOT {_ms(prediction.tpot_s)} ms, "
        f"TTFT {_ms(prediction.ttft_s)} ms ({workload.prompt} tokens of prompt)"
    )
    if workload.kl_budget > 0:
        yield (
            f"damage: {prediction.damage_nats:.5f} nats a token of a budget of "
            f"{workload.kl_budget:g}; {prediction.at_stake_nats:.5f} if nothing were waited for"
        )
    part = prediction.bottleneck
    what = _PARTS[part].format(device=prediction.waited_for)
    yield (
        f"bottleneck: {what}; it takes {_ms(prediction.parts[part])} ms, "
        f"{prediction.parts[part] / prediction.tpot_s:.0%} of a token"
    )
    yield from _left_out(found.left_out, prediction)
    if changed.one_more is not None:
        yield f"one more device like {changed.like}: {_change(prediction, changed.one_more)}"
    if changed.twice_the_rate is not None:
        yield f"twice the bandwidth: {_change(prediction, changed.twice_the_rate)}"


def _left_out(left_out: Sequence[LeftOut], prediction: Prediction) -> Iterator[str]:
    """Those that would do the same are named together."""

    def why(out: LeftOut) -> str:
        if out.tpot_s is None:
            return "no memory for a single neuron group of every layer"
        more_s = out.tpot_s - prediction.tpot_s
        if more_s <= 0:
            return "it brings nothing to speak of"
        return f"with a share, however small, a token takes {_ms(out.tpot_s)} ms"

    for reason, outs in groupby(left_out, why):
        names = [out.name for out in outs]
        more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
        listed = ", ".join(names[:NAMED]) + more
        yield f"left out: {listed} ({reason})"


def _change(before: Prediction, after: Schedule) -> str:
    tpot_s = after.prediction.tpot_s
    gain = 1 - tpot_s / before.tpot_s
    if abs(gain) < WORTH_TELLING:
        return "no change"
    return f"TPOT {_ms(tpot_s)} ms ({-gain:+.0%})"


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:,.0f}" if seconds >= 0.1 else f"{seconds * 1e3:.1f}"

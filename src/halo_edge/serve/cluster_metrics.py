"""How the devices are and what the rounds needed, for Prometheus: read from the cluster when
somebody asks, so that nothing is counted twice and nothing costs while nobody looks.

By device, never by layer: a series for each layer of each device would be thousands.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final, Protocol

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from halo_edge.cluster.overview import DeviceOverview, Overview, State
from halo_edge.cluster.planner import ROOT_NAME
from halo_edge.cluster.scheduling import Outlook
from halo_edge.sync.ids import ROOT
from halo_edge.sync.statistics import Statistics

REFUSED: Final = (
    "malformed",
    "wrong_length",
    "wrong_version",
    "wrong_epoch",
    "unknown_sender",
    "replayed",
    "forged",
)
"""Fields of `Statistics`: why a datagram was refused."""


class Source(Protocol):
    """What is read of a `cluster.root.Cluster`. Any thread asks."""

    @property
    def statistics(self) -> Statistics: ...

    @property
    def outlook(self) -> Outlook | None: ...

    def overview(self) -> Overview: ...

    def hear(self) -> None: ...


class ClusterMetrics(Collector):
    """`source` None: everything is computed in this process."""

    def __init__(self, source: Source | None) -> None:
        self._source = source
        self._hearing: threading.Thread | None = None

    def describe(self) -> Iterable[Metric]:
        """Nothing is asked of the cluster while this is registered."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """As of now."""
        source = self._source
        if source is None:
            yield from _alone()
            return
        self._hear(source)
        overview = source.overview()
        devices = _named(overview.devices)
        yield from _plan(devices)
        yield from _links(devices)
        yield from _chunks(devices)
        yield from _session(overview)
        yield from _traffic(source.statistics)
        outlook = source.outlook
        if outlook is not None:
            yield from _outlook(outlook)

    def _hear(self, source: Source) -> None:
        """Have the workers asked how they are, for the next time: no reader waits for them."""
        if self._hearing is None or not self._hearing.is_alive():
            self._hearing = threading.Thread(target=source.hear, name="hear", daemon=True)
            self._hearing.start()


def _named(devices: Sequence[DeviceOverview]) -> Mapping[str, DeviceOverview]:
    """By name. No two alike, or no scrape would be taken."""
    named: dict[str, DeviceOverview] = {}
    for device in devices:
        name = f"{device.name} ({device.number})" if device.name in named else device.name
        named[name] = device
    return named


def _in_use() -> GaugeMetricFamily:
    return GaugeMetricFamily(
        "halo_device_in_use",
        "1: the device takes part in rounds; 0: it is known, and does not, or is silent.",
        labels=["device"],
    )


def _share() -> GaugeMetricFamily:
    return GaugeMetricFamily(
        "halo_device_share_ratio",
        "Share of the neuron groups that the plan gives the device, 0 to 1.",
        labels=["device"],
    )


def _alone() -> Iterator[Metric]:
    for family in (_in_use(), _share()):
        family.add_metric([ROOT_NAME], 1.0)
        yield family


def _plan(devices: Mapping[str, DeviceOverview]) -> Iterator[Metric]:
    """A time that is not known yet has no sample; nor has a memory of which nobody says."""
    in_use, share = _in_use(), _share()
    compute = GaugeMetricFamily(
        "halo_device_compute_seconds",
        "Time that the FFN of one token takes the device, in all layers together, lately; seconds.",
        labels=["device"],
    )
    cpu = GaugeMetricFamily(
        "halo_device_compute_cpu_seconds",
        "CPU time of a thread that the FFN of one token takes the device, in all layers together, "
        "lately; seconds.",
        labels=["device"],
    )
    held = GaugeMetricFamily(
        "halo_device_weights_bytes",
        "Weights of the FFN that the device keeps in memory; bytes.",
        labels=["device"],
    )
    for name, device in devices.items():
        in_use.add_metric([name], float(device.state is State.IN_USE))
        share.add_metric([name], device.share)
        held.add_metric([name], device.held_bytes)
        if device.compute_s is not None:
            compute.add_metric([name], device.compute_s)
        if device.compute_cpu_s is not None:
            cpu.add_metric([name], device.compute_cpu_s)
    yield from (in_use, share, compute, cpu, held)


def _links(devices: Mapping[str, DeviceOverview]) -> Iterator[Metric]:
    """Of the workers in use."""
    loss = GaugeMetricFamily(
        "halo_device_packet_loss_ratio",
        "PLR: estimated share of datagrams lost on the way to the device, or from it, 0 to 1.",
        labels=["device", "direction"],
    )
    copies = GaugeMetricFamily(
        "halo_device_copies",
        "How often each chunk is sent at once on the way to the device, or from it.",
        labels=["device", "direction"],
    )
    rtt = GaugeMetricFamily(
        "halo_device_round_trip_seconds", "Smoothed RTT of the link; seconds.", labels=["device"]
    )
    answer = GaugeMetricFamily(
        "halo_device_answer_seconds",
        "From x to the device's partial, smoothed; seconds.",
        labels=["device"],
    )
    for name, device in devices.items():
        link = device.link
        if link is None:
            continue
        loss.add_metric([name, "to"], link.loss_to)
        loss.add_metric([name, "from"], link.loss_from)
        copies.add_metric([name, "to"], link.copies_to)
        copies.add_metric([name, "from"], link.copies_from)
        if link.srtt_s is not None:
            rtt.add_metric([name], link.srtt_s)
        if link.answer_s is not None:
            answer.add_metric([name], link.answer_s)
    yield from (loss, copies, rtt, answer)


def _chunks(devices: Mapping[str, DeviceOverview]) -> Iterator[Metric]:
    """Of the workers' partials."""
    recovered = CounterMetricFamily(
        "halo_device_chunks_recovered",
        "Chunks of the device's partials that came because they had been asked for again.",
        labels=["device"],
    )
    filled = CounterMetricFamily(
        "halo_device_chunks_filled",
        "Chunks of the device's partials that were gone on without.",
        labels=["device"],
    )
    taken_over = CounterMetricFamily(
        "halo_device_chunks_taken_over",
        "Chunks of the device's partials that were computed elsewhere.",
        labels=["device"],
    )
    late = CounterMetricFamily(
        "halo_device_chunks_late",
        "Of the chunks filled or taken over, those that came after all, too late.",
        labels=["device"],
    )
    away = CounterMetricFamily(
        "halo_device_away",
        "How often the device was taken for gone, because it was silent.",
        labels=["device"],
    )
    for name, device in devices.items():
        if device.number != ROOT:
            recovered.add_metric([name], device.recovered)
            filled.add_metric([name], device.filled)
            taken_over.add_metric([name], device.taken_over)
            late.add_metric([name], device.late)
            away.add_metric([name], device.went_away)
    yield from (recovered, filled, taken_over, late, away)


def _session(overview: Overview) -> Iterator[Metric]:
    spent = overview.spent
    yield CounterMetricFamily("halo_rounds", "Rounds; a step has one a layer.", value=spent.rounds)
    yield CounterMetricFamily(
        "halo_nats_spent",
        "Predicted damage of what was filled; nats of KL divergence.",
        value=spent.nats,
    )
    if overview.budget_fullness is not None:
        yield GaugeMetricFamily(
            "halo_budget_ratio",
            "How full the emptiest budget of the last step was, 0 to 1.",
            value=overview.budget_fullness,
        )


def _traffic(counted: Statistics) -> Iterator[Metric]:
    """Datagrams of the rounds, at the root."""
    datagrams = CounterMetricFamily(
        "halo_datagrams", "Datagrams of the rounds, at the root.", labels=["direction"]
    )
    datagrams.add_metric(["sent"], counted.datagrams_sent)
    datagrams.add_metric(["received"], counted.datagrams_received)
    size = CounterMetricFamily(
        "halo_datagram_bytes",
        "Their bytes, without the headers of UDP and IP.",
        labels=["direction"],
    )
    size.add_metric(["sent"], counted.bytes_sent)
    size.add_metric(["received"], counted.bytes_received)
    yield from (datagrams, size)
    for name, words, value in (
        ("halo_chunks_resent", "Chunks of x sent again to a device.", counted.chunks_resent),
        ("halo_chunks_duplicate", "Chunks that had arrived already.", counted.duplicates),
    ):
        yield CounterMetricFamily(name, words, value=value)
    yield CounterMetricFamily(
        "halo_datagrams_stale",
        "Datagrams of rounds that were over: with chunks that were late, or had arrived already.",
        value=counted.stale,
    )
    refused = CounterMetricFamily(
        "halo_datagrams_refused", "Datagrams that were refused, by reason.", labels=["reason"]
    )
    for reason in REFUSED:
        refused.add_metric([reason], getattr(counted, reason))
    yield refused


def _outlook(outlook: Outlook) -> Iterator[Metric]:
    yield GaugeMetricFamily(
        "halo_plan_tpot_seconds",
        "TPOT of one answer alone that the scheduler expects of the plan in use; seconds.",
        value=outlook.tpot_s,
    )
    yield GaugeMetricFamily(
        "halo_plan_bound_tpot_seconds",
        "TPOT that no plan for these devices can beat; seconds.",
        value=outlook.bound_s,
    )

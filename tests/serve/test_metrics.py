"""What `/metrics` says, after requests and of a cluster that are made up here."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from prometheus_client import Metric
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as openmetrics_families,
)
from prometheus_client.parser import text_string_to_metric_families

from halo_edge.cluster.overview import DeviceOverview, Overview, State
from halo_edge.cluster.relaxation import Spent
from halo_edge.cluster.scheduling import Outlook
from halo_edge.engine.sampling import SamplingParams
from halo_edge.engine.sequence import FinishReason
from halo_edge.serve.metrics import Metrics, metrics_router
from halo_edge.serve.request import Answered, Load, Price, Request
from halo_edge.sync.peer import LinkReport
from halo_edge.sync.statistics import Statistics

DOCS = Path(__file__).parents[2] / "docs"
REQUEST = Request("r", [1, 2, 3, 4], SamplingParams(), "u")
LOAD = Load(running=2, waiting=3, kv_used=0.5, kv_kept=0.25)
# Written by prometheus-client itself: when each series began.
BEGAN = "_created"


def device(number: int, name: str, **changes: Any) -> DeviceOverview:
    fields: dict[str, Any] = {
        "host": "pi",
        "state": State.IN_USE,
        "groups": range(4 * number, 4 * number + 4),
        "share": 0.25,
        "held_bytes": 1000,
        "memory_bytes": None,
        "threads": 4,
        "compute_s": 0.03,
        "compute_cpu_s": 0.02,
        "link": LinkReport(0.002, 0.005, 0.004, 0.1, 0.125, 0.1, 0.125, 2, 3) if number else None,
    }
    return DeviceOverview(number, name, **fields | changes)


UNKNOWN = LinkReport(None, None, None, 0.0, 0.0, 0.0, 0.0, 1, 1)
DEVICES = (
    device(0, "root"),
    device(1, 'attic "1"', recovered=40, filled=7, taken_over=5, late=3, went_away=2),
    device(2, "new", link=UNKNOWN, compute_s=None, compute_cpu_s=None),
    device(3, "away", state=State.AWAY),
)


class FakeCluster:
    """A `cluster_metrics.Source`."""

    def __init__(self, *devices: DeviceOverview) -> None:
        self.devices = devices
        self.statistics = Statistics(datagrams_sent=9, bytes_received=100, stale=6, forged=1)
        self.outlook = Outlook(0.2, 0.1)
        self.heard = threading.Event()

    def overview(self) -> Overview:
        return Overview(self.devices, "", Spent(rounds=300, nats=0.01), 0.75)

    def hear(self) -> None:
        self.heard.set()


def answered(finish: FinishReason | None = FinishReason.STOP, **changes: Any) -> Answered:
    fields: dict[str, Any] = {
        "error": "",
        "prompt_tokens": 4,
        "reused_tokens": 3,
        "generated_tokens": 11,
        "queued_s": 0.25,
        "ttft_s": 0.5,
        "total_s": 1.5,
        "price": Price(),
    }
    return Answered(REQUEST, finish, **fields | changes)


@pytest.fixture
def metrics() -> Metrics:
    return Metrics(lambda: LOAD, FakeCluster(*DEVICES))


def page(metrics: Metrics, accept: str = "*/*") -> Any:
    app = FastAPI()
    app.include_router(metrics_router(metrics))
    response = TestClient(app).get("/metrics", headers={"accept": accept})
    assert response.status_code == 200
    return response


def families(metrics: Metrics) -> dict[str, Metric]:
    return {family.name: family for family in text_string_to_metric_families(page(metrics).text)}


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    """Of one sample; None if there is none."""
    samples = (sample for family in families(metrics).values() for sample in family.samples)
    found = [s.value for s in samples if s.name == name and s.labels == labels]
    assert len(found) <= 1
    return found[0] if found else None


# Requests


def test_tokens_and_gaps(metrics: Metrics) -> None:
    metrics.requests.token(REQUEST, 2.0, first=True)
    for gap_s in (0.04, 0.06):
        metrics.requests.token(REQUEST, gap_s, first=False)
    assert value(metrics, "halo_time_to_first_token_seconds_sum") == 2.0
    assert value(metrics, "halo_inter_token_latency_seconds_sum") == pytest.approx(0.1)
    assert value(metrics, "halo_inter_token_latency_seconds_bucket", le="0.05") == 1
    assert value(metrics, "halo_generation_tokens_total") == 3
    assert value(metrics, "halo_prompt_tokens_total") == 4


def test_ends(metrics: Metrics) -> None:
    assert value(metrics, "halo_request_success_total", finished_reason="length") == 0
    metrics.requests.ended(answered())
    metrics.requests.ended(answered(None))
    metrics.requests.ended(answered(None, error="broken", generated_tokens=1, ttft_s=1.5))
    for reason in ("stop", "abort", "error"):
        assert value(metrics, "halo_request_success_total", finished_reason=reason) == 1
    assert value(metrics, "halo_request_queue_time_seconds_sum") == 0.75
    assert value(metrics, "halo_e2e_request_latency_seconds_sum") == 4.5
    assert value(metrics, "halo_request_time_per_output_token_seconds_count") == 2
    assert value(metrics, "halo_request_time_per_output_token_seconds_sum") == pytest.approx(0.2)
    assert value(metrics, "halo_request_prompt_tokens_sum") == 12
    assert value(metrics, "halo_request_generation_tokens_sum") == 23
    assert value(metrics, "halo_prefix_cache_queries_total") == 12
    assert value(metrics, "halo_prefix_cache_hits_total") == 9


def test_a_request_without_a_token(metrics: Metrics) -> None:
    metrics.requests.ended(answered(None, ttft_s=None, generated_tokens=0))
    assert value(metrics, "halo_request_time_per_output_token_seconds_count") == 0
    assert value(metrics, "halo_time_to_first_token_seconds_count") == 0


def test_load(metrics: Metrics) -> None:
    assert value(metrics, "halo_num_requests_running") == 2
    assert value(metrics, "halo_num_requests_waiting") == 3
    assert value(metrics, "halo_kv_cache_usage_perc") == 0.5
    assert value(metrics, "halo_kv_cache_kept_perc") == 0.25


def test_refused(metrics: Metrics) -> None:
    metrics.requests.refused(REQUEST)
    assert value(metrics, "halo_request_refused_total") == 1


# Devices


def test_devices(metrics: Metrics) -> None:
    in_use = {d.name: value(metrics, "halo_device_in_use", device=d.name) for d in DEVICES}
    assert in_use == {"root": 1, 'attic "1"': 1, "new": 1, "away": 0}
    attic = {"device": 'attic "1"'}
    assert value(metrics, "halo_device_share_ratio", **attic) == 0.25
    assert value(metrics, "halo_device_compute_seconds", **attic) == 0.03
    assert value(metrics, "halo_device_compute_cpu_seconds", **attic) == 0.02
    assert value(metrics, "halo_device_round_trip_seconds", **attic) == 0.002
    assert value(metrics, "halo_device_answer_seconds", **attic) == 0.005
    assert value(metrics, "halo_device_packet_loss_ratio", direction="to", **attic) == 0.1
    assert value(metrics, "halo_device_packet_loss_ratio", direction="from", **attic) == 0.125
    assert value(metrics, "halo_device_copies", direction="from", **attic) == 3
    assert value(metrics, "halo_device_chunks_recovered_total", **attic) == 40
    assert value(metrics, "halo_device_chunks_filled_total", **attic) == 7
    assert value(metrics, "halo_device_chunks_taken_over_total", **attic) == 5
    assert value(metrics, "halo_device_chunks_late_total", **attic) == 3
    assert value(metrics, "halo_device_away_total", **attic) == 2


def test_what_is_not_known_has_no_sample(metrics: Metrics) -> None:
    assert value(metrics, "halo_device_round_trip_seconds", device="new") is None
    assert value(metrics, "halo_device_compute_seconds", device="new") is None
    assert value(metrics, "halo_device_packet_loss_ratio", device="root", direction="to") is None
    assert value(metrics, "halo_device_chunks_filled_total", device="root") is None


def test_rounds(metrics: Metrics) -> None:
    assert value(metrics, "halo_rounds_total") == 300
    assert value(metrics, "halo_nats_spent_total") == 0.01
    assert value(metrics, "halo_budget_ratio") == 0.75
    assert value(metrics, "halo_datagrams_total", direction="sent") == 9
    assert value(metrics, "halo_datagram_bytes_total", direction="received") == 100
    assert value(metrics, "halo_datagrams_stale_total") == 6
    assert value(metrics, "halo_datagrams_refused_total", reason="forged") == 1
    assert value(metrics, "halo_plan_tpot_seconds") == 0.2
    assert value(metrics, "halo_plan_bound_tpot_seconds") == 0.1


def test_a_worker_called_root_has_a_series_of_its_own() -> None:
    named = Metrics(lambda: LOAD, FakeCluster(device(0, "root"), device(1, "root", share=0.75)))
    assert value(named, "halo_device_share_ratio", device="root") == 0.25
    assert value(named, "halo_device_share_ratio", device="root (1)") == 0.75


def test_one_device() -> None:
    alone = Metrics(lambda: LOAD, None)
    assert value(alone, "halo_device_in_use", device="root") == 1
    assert value(alone, "halo_device_share_ratio", device="root") == 1
    assert "halo_rounds" not in page(alone).text


def test_workers_are_asked_when_somebody_looks() -> None:
    cluster = FakeCluster(*DEVICES)
    metrics = Metrics(lambda: LOAD, cluster)
    assert not cluster.heard.is_set()
    page(metrics)
    assert cluster.heard.wait(60)


# The page


def test_text(metrics: Metrics) -> None:
    response = page(metrics)
    assert response.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert "process_resident_memory_bytes" in families(metrics)
    for family in families(metrics).values():
        assert family.documentation or family.name.endswith(BEGAN)


def test_openmetrics(metrics: Metrics) -> None:
    response = page(metrics, "application/openmetrics-text;version=1.0.0,text/plain;q=0.5")
    assert response.headers["content-type"].startswith("application/openmetrics-text; version=1.0")
    names = {family.name for family in openmetrics_families(response.text)}
    assert {"halo_prompt_tokens", "halo_device_packet_loss_ratio"} <= names


@pytest.mark.parametrize("accept", ["", "application/openmetrics;version=x", "a/b;q=", "," * 9000])
def test_any_accept_header_will_do(metrics: Metrics, accept: str) -> None:
    assert "halo_rounds_total" in page(metrics, accept).text


# Documents


def described(metrics: Metrics) -> Iterator[tuple[str, str, str, str]]:
    """Name, type, labels, and words of every metric of ours, as docs/metrics.md has them."""
    for family in metrics.registry.collect():
        if family.name.startswith("halo_"):
            labels = sorted({k for s in family.samples for k in s.labels if k != "le"})
            name = family.name + ("_total" if family.type == "counter" else "")
            yield name, family.type, ", ".join(labels), family.documentation


def test_the_table_in_the_documents_is_complete(metrics: Metrics) -> None:
    lines = (DOCS / "metrics.md").read_text(encoding="utf-8").splitlines()
    rows = [re.split(r" *\| *", line.strip("| ")) for line in lines if line.startswith("| `halo_")]
    told = {row[0].strip("`"): tuple(row[1:4]) for row in rows}
    assert told == {name: (kind, labels, words) for name, kind, labels, words in described(metrics)}

"""`/metrics`: a registry of the server's own, and the page that Prometheus reads.

What is measured of requests is `request_metrics`' business, of devices `cluster_metrics`'.
"""

from __future__ import annotations

from collections.abc import Callable

from fastapi import APIRouter, Request, Response
from prometheus_client import CollectorRegistry, ProcessCollector, exposition
from prometheus_client.openmetrics import exposition as openmetrics

from halo_edge.serve.cluster_metrics import ClusterMetrics, Source
from halo_edge.serve.request import Load
from halo_edge.serve.request_metrics import RequestMetrics


class Metrics:
    """`load`, `cluster`: asked when the page is read, in any thread. `requests` is a `Listener`, to
    be told of every request."""

    def __init__(self, load: Callable[[], Load], cluster: Source | None) -> None:
        self.registry = CollectorRegistry()
        self.requests = RequestMetrics(self.registry, load)
        self.registry.register(ClusterMetrics(cluster))
        ProcessCollector(registry=self.registry)


def metrics_router(metrics: Metrics) -> APIRouter:
    """GET /metrics, in Prometheus' text format, or as OpenMetrics to whom accepts that."""
    router = APIRouter()

    # Not `async`: reading takes a few milliseconds, in which no token should wait to be sent.
    @router.get(
        "/metrics",
        summary="Metrics, for Prometheus",
        response_class=Response,
        responses={200: {"content": {"text/plain": {}, "application/openmetrics-text": {}}}},
    )
    def read(request: Request) -> Response:
        # Their own `choose_encoder` fails over a version that is none.
        if "application/openmetrics-text" in request.headers.get("accept", ""):
            page = openmetrics.generate_latest(metrics.registry)  # type: ignore[no-untyped-call]
            return Response(page, headers={"content-type": openmetrics.CONTENT_TYPE_LATEST})
        page = exposition.generate_latest(metrics.registry)
        return Response(page, headers={"content-type": exposition.CONTENT_TYPE_PLAIN_0_0_4})

    return router

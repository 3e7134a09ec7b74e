"""Ready, degraded with the reason, not ready."""

from __future__ import annotations

from typing import Any

import pytest

from halo_edge.serve.app import create_app
from halo_edge.serve.closing import Closing
from halo_edge.serve.health import Health, Status, cluster_health
from halo_edge.sync.ids import DeviceId


class Devices:
    def __init__(self, away: set[int]) -> None:
        self.members = {DeviceId(1): "a", DeviceId(2): "b"}
        self.away = frozenset(map(DeviceId, away))


def test_of_a_cluster() -> None:
    assert cluster_health(None)() == Health(Status.READY)
    assert cluster_health(Devices(set()))() == Health(Status.READY)
    degraded = cluster_health(Devices({2}))()
    assert degraded.status is Status.DEGRADED
    assert "b" in degraded.reason
    assert cluster_health(Devices({3}))().status is Status.READY, "no longer in the plan"


@pytest.mark.parametrize(
    ("status", "code"), [(Status.READY, 200), (Status.DEGRADED, 200), (Status.NOT_READY, 503)]
)
def test_over_http(api: Any, send_to: Any, status: Status, code: int) -> None:
    app = create_app(api.service, api.served, lambda: Health(status, "because"))
    response = send_to(app, "GET", "/health")
    assert response.status_code == code
    assert response.json() == {"status": status.value, "reason": "because"}


def test_closing(api: Any, send_to: Any, refused: Any) -> None:
    closing = Closing()
    app = create_app(api.service, api.served, cluster_health(None), closing=closing)
    closing.begin()
    assert send_to(app, "GET", "/health").status_code == 503
    response = send_to(app, "POST", "/v1/completions", json={"prompt": "hello"})
    assert refused(response)[0] == 503
    assert response.headers["retry-after"]

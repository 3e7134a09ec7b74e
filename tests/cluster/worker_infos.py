"""Made-up workers, as they present themselves."""

from __future__ import annotations

from typing import Any

from halo_edge.cluster.messages import CONTROL_VERSION, WorkerInfo


def info(name: str, **settings: Any) -> WorkerInfo:
    usual: dict[str, Any] = {
        "control_version": CONTROL_VERSION,
        "version": "1",
        "host": name,
        "addresses": ["127.0.0.1"],
        "port": 1,
        "machine": name,
        "cores": [0],
        "threads": 1,
        "cpu_quota": None,
        "memory_bytes": None,
        "session": "",
    }
    return WorkerInfo(worker=name, **usual | settings)

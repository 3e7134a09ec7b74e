"""Many requests at 10 % loss while workers go away: all are answered, and nothing is left over."""

from __future__ import annotations

import os
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from halo_edge.bench.lab_cluster import lab_spec
from halo_edge.lab.lab import Lab
from halo_edge.lab.link import LinkSettings
from halo_edge.lab.spec import Action, Event

CLIENTS = 32
REQUESTS = 200
URL = "http://127.0.0.1:8080"
LOSSY = LinkSettings(loss=0.1, delay_ms=0.5)
DEADLINE_S = 100.0
SCRIPT = Path(__file__).parent / "many_clients.py"
# What an allocator keeps for next time, and a root that stands in for workers.
MORE_BYTES = 32 << 20
SLACK_THREADS = 4  # of pools, which grow as they are used


class Served:
    """`halo serve` on the root of a lab, and what one sees of it from outside."""

    def __init__(self, lab: Lab, model: Path, log: Path) -> None:
        self.lab, self.log = lab, log
        options = ["-m", str(model), "--split", "1,1,1,1", "--port", "8080"]
        with log.open("wb") as errors:
            self.process = self.spawn(["halo", "serve", *options], stderr=errors)
        deadline = time.monotonic() + DEADLINE_S
        while f"{URL}/v1" not in self.said:
            assert self.process.poll() is None and time.monotonic() < deadline, self.said
            select.select([], [], [], 0.05)

    def spawn(self, command: list[str], **popen: Any) -> subprocess.Popen[bytes]:
        environment = self.lab.environment()
        return self.lab.spawn(self.lab.spec.root.name, command, env=environment, **popen)

    def ask(self, clients: int, requests: int, seed: int, *events: tuple[int, Event]) -> list[str]:
        """Lines of the clients; each event happens after so many of them."""
        words = [URL, *map(str, (clients, requests, seed))]
        process = self.spawn([sys.executable, str(SCRIPT), *words], stdout=subprocess.PIPE)
        lines, due = [], dict(events)
        try:
            assert process.stdout is not None
            for line in process.stdout:
                lines.append(line.decode().strip())
                if event := due.pop(len(lines), None):
                    self.lab.act(event)
        finally:
            process.kill()
            process.communicate()
        return lines

    def metrics(self) -> dict[str, float]:
        """Those without labels."""
        code = f"import urllib.request as u; print(u.urlopen('{URL}/metrics').read().decode())"
        done = self.spawn([sys.executable, "-c", code], stdout=subprocess.PIPE)
        page = done.communicate(timeout=DEADLINE_S)[0].decode()
        families = text_string_to_metric_families(page)
        return {s.name: s.value for f in families for s in f.samples if not s.labels}

    @property
    def said(self) -> str:
        return self.log.read_text(errors="replace")

    @property
    def sockets(self) -> int:
        links = Path(f"/proc/{self.process.pid}/fd").iterdir()
        return sum(str(link.readlink()).startswith("socket:") for link in links)

    @property
    def threads(self) -> int:
        return len(list(Path(f"/proc/{self.process.pid}/task").iterdir()))


@pytest.fixture
def served(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    if sys.platform != "linux" or os.geteuid() != 0 or not Path("/dev/net/tun").exists():
        pytest.skip("needs Linux, root and /dev/net/tun")
    monkeypatch.setenv("HALO_EDGE_CACHE", str(tmp_path))
    with Lab(lab_spec("test-endurance", 4, link=LOSSY)) as lab:
        lab.start_workers()
        served = Served(lab, tiny_model, tmp_path / "log")
        try:
            yield served
        finally:
            served.process.kill()
            served.process.wait()


def test_while_workers_go_away(served: Served) -> None:
    assert len(served.ask(CLIENTS, CLIENTS, 1)) == CLIENTS
    before, threads, sockets = served.metrics(), served.threads, served.sockets
    killed = REQUESTS // 4, Event(0, Action.KILL, "n3")
    cut = REQUESTS // 2, Event(0, Action.CUT, "n2")
    lines = served.ask(CLIENTS, REQUESTS, 2, killed, cut)
    assert sorted(lines) == sorted(f"answered {number}" for number in range(REQUESTS))
    after = served.metrics()
    assert after["halo_num_requests_running"] == after["halo_num_requests_waiting"] == 0
    assert after["halo_kv_cache_usage_perc"] == after["halo_kv_cache_kept_perc"]
    assert after["process_resident_memory_bytes"] < (
        before["process_resident_memory_bytes"] + MORE_BYTES
    )
    assert served.sockets <= sockets, "connections end with their clients"
    assert served.threads <= threads + SLACK_THREADS
    assert "Traceback" not in served.said

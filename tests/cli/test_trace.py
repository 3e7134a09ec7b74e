"""`--trace`: a file that explains a generation, or one line at once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import defaultdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

HALO = [sys.executable, "-m", "halo_edge.cli.app"]
DEADLINE_S = 60.0
N_TOKENS = 6
N_LAYERS = 30  # of the demo model


def halo_run(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*HALO, "run", "The sky is", "--raw", "--temperature", "0", *arguments],
        capture_output=True, text=True, env=os.environ | environment, timeout=DEADLINE_S,
    )  # fmt: skip


def nanoseconds(event: dict[str, Any]) -> tuple[int, int]:
    begin = round(event["ts"] * 1000)
    return begin, begin + round(event["dur"] * 1000)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_generation_explained(demo_model: Path, tmp_path: Path, workers: int) -> None:
    path = tmp_path / "trace.json"
    done = halo_run(
        "-n", str(N_TOKENS), "-m", demo_model, "-w", str(workers), "--trace", path,
        HALO_EDGE_CACHE=str(tmp_path / "cache"),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert f"trace: {path}" in done.stderr
    trace = json.loads(path.read_text())
    devices = trace["otherData"]["devices"]
    assert len(devices) == 1 + workers
    assert not any(device["spans_dropped"] for device in devices)

    lanes: dict[tuple[int, int], list[tuple[int, int]]] = defaultdict(list)
    by_name: dict[tuple[int, str], list[dict[str, Any]]] = defaultdict(list)
    for event in trace["traceEvents"]:
        if event["ph"] == "X":
            lanes[event["pid"], event["tid"]].append(nanoseconds(event))
            by_name[event["pid"], event["name"]].append(event)
    for spans in lanes.values():
        spans.sort()
        assert all(a[1] <= b[0] for a, b in pairwise(spans))

    steps = by_name[1, "step"]
    assert [step["args"]["tokens"] for step in steps] == [3] + [1] * (N_TOKENS - 1)
    assert len(by_name[1, "sampling"]) == N_TOKENS
    assert len(by_name[1, "attention"]) == N_TOKENS * N_LAYERS
    for step in steps:
        begin, end = nanoseconds(step)
        explained = 0
        for (pid, name), events in by_name.items():
            if pid == 1 and name not in ("step", "round"):
                inside = (nanoseconds(event) for event in events)
                explained += sum(b - a for a, b in inside if begin <= a and b <= end)
        assert 0.95 * (end - begin) <= explained <= end - begin

    rounds = {(r["args"]["step"], r["args"]["layer"]): r for r in by_name[1, "round"]}
    assert len(rounds) == (N_TOKENS * N_LAYERS if workers else 0)
    # Where others take the processors a worker may be late: then the root computes for it, and it
    # may leave that round out.
    waited_for = rounds.keys() - {
        (event["args"]["step"], event["args"]["layer"]) for event in by_name[1, "stand in"]
    }
    assert not workers or waited_for
    for worker in range(workers):
        slack = devices[1 + worker]["clock_uncertainty_us"] * 1000
        computed = {(e["args"]["step"], e["args"]["layer"]): e for e in by_name[2 + worker, "FFN"]}
        assert waited_for <= computed.keys() <= rounds.keys()
        for key in waited_for:
            inner, outer = nanoseconds(computed[key]), nanoseconds(rounds[key])
            assert outer[0] - slack <= inner[0] <= inner[1] <= outer[1] + slack


def test_a_path_that_cannot_be_written(tmp_path: Path) -> None:
    """Said before anything is done: the model named here does not exist."""
    for path in (tmp_path, tmp_path / "nowhere" / "trace.json"):
        done = halo_run("-m", "/nonexistent.gguf", "--trace", path)
        assert done.returncode == 1
        (line,) = done.stderr.strip().splitlines()
        assert line.startswith(f"halo: --trace: {path} cannot be written")


def test_a_full_disk(tiny_model: Path) -> None:
    done = halo_run("-m", tiny_model, "-w", "0", "-n", "1", "--trace", "/dev/full")
    assert done.returncode == 1
    assert done.stderr.strip() == (
        "halo: --trace: /dev/full cannot be written (No space left on device)"
    )

"""A device measures itself: every number is there and of a sensible size; not how large it is."""

from __future__ import annotations

import subprocess
import sys
import threading

import msgspec
import pytest

from halo_edge.cluster import bench_rounds
from halo_edge.cluster.device_benchmark import MEMORY_BYTES, measure_device
from halo_edge.cluster.profile_message import BenchmarkTask
from halo_edge.compute.wire import WireFormat
from halo_edge.errors import HaloError
from halo_edge.plan.device_profile import NUMBERS, DeviceProfile

F16, Q4_0, Q8_0, Q4_K, Q6_K = 1, 2, 8, 12, 14
TASK = BenchmarkTask(
    hidden=256,
    ffn=1024,
    gate_type=Q4_0,
    up_type=Q4_0,
    down_type=Q4_0,
    x_wire=WireFormat.Q8_0,
    partial_wire=WireFormat.F16,
)
MB = 1 << 20
MAY_BE_ZERO = ("graph_s", "add_s", "crypto_s_per_byte")


def check(profile: DeviceProfile) -> None:
    for name in NUMBERS:
        value = getattr(profile, name)
        if name.endswith("bytes_per_s") or name == "flop_per_s":
            assert 1e6 < value < 1e13, name
        elif name in MAY_BE_ZERO:
            assert 0 <= value < 0.1, name
        else:
            assert 1e-8 < value < 0.1, name
    assert "others" in profile.sources
    # Within the bounds of its own type, too.
    assert msgspec.convert(msgspec.to_builtins(profile), DeviceProfile) == profile


def test_a_device_is_measured() -> None:
    profile = measure_device(TASK, 1, memory_bytes=4 * MB, budget_s=0.2)
    check(profile)
    assert "flop_per_s" not in profile.sources


@pytest.mark.parametrize(
    ("types", "wire"),
    [
        ((Q4_K, Q4_K, Q6_K), WireFormat.Q8_0),
        ((Q4_0, Q8_0, F16), WireFormat.F16),
    ],
)
def test_types_of_weights(types: tuple[int, int, int], wire: WireFormat) -> None:
    gate, up, down = types
    task = msgspec.structs.replace(
        TASK, gate_type=gate, up_type=up, down_type=down, x_wire=wire, partial_wire=wire
    )
    check(measure_device(task, 1, memory_bytes=8 * MB, budget_s=0.05))


def test_several_threads_and_any_thread() -> None:
    measured: list[DeviceProfile] = []

    def measure() -> None:
        measured.append(measure_device(TASK, 2, memory_bytes=4 * MB, budget_s=0.1))

    thread = threading.Thread(target=measure)
    thread.start()
    thread.join()
    check(measured[0])


def test_without_time_the_least_is_done() -> None:
    profile = measure_device(TASK, 1, memory_bytes=4 * MB, budget_s=1e-6, deadline_s=1e-6)
    check(profile)
    assert "no time" in profile.sources["flop_per_s"]
    weight_bytes = 18 / 32
    assert profile.flop_per_s == pytest.approx(2 * profile.memory_bytes_per_s / weight_bytes)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"hidden": 1 << 16}, "too little for a model of hidden size 65536"),
        ({"hidden": 100}, "whole number of blocks"),
        ({"down_type": 99}, "unknown tensor type 99"),
        ({"gate_type": 15}, "weights of type 15"),  # Q8_K: ggml would end the process
        ({"hidden": 16, "gate_type": 0, "up_type": 0}, "--wire"),
    ],
)
def test_what_cannot_be_measured(change: dict[str, int], words: str) -> None:
    with pytest.raises(HaloError, match=words) as caught:
        measure_device(msgspec.structs.replace(TASK, **change), 1, memory_bytes=8 * MB)
    assert "\n" not in str(caught.value)


def test_a_loopback_that_carries_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_rounds, "_STALL_TIMEOUT_S", 0.001)
    monkeypatch.setattr(bench_rounds.udp.UdpRootLink, "send", lambda *_: None)
    with pytest.raises(HaloError, match="do not pass over loopback"):
        measure_device(TASK, 1, memory_bytes=4 * MB)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_is_bounded_and_given_back_and_nothing_large_is_imported() -> None:
    program = f"""
import sys
from pathlib import Path
from halo_edge.cluster.device_benchmark import MEMORY_BYTES, measure_device
from halo_edge.cluster.profile_message import BenchmarkTask
from halo_edge.compute.wire import WireFormat
import msgspec
task = msgspec.json.decode({msgspec.json.encode(TASK)!r}, type=BenchmarkTask)
def status(what):
    line = next(s for s in Path("/proc/self/status").read_text().splitlines() if what in s)
    return int(line.split()[1]) * 1024
measure_device(task, 1, memory_bytes=4 << 20, budget_s=0.01)  # what is loaded at first use
before = status("VmRSS")
task = msgspec.structs.replace(task, hidden=2048, ffn=5632)
measure_device(task, 1, budget_s=0.3)
assert status("VmHWM") - before <= MEMORY_BYTES + (4 << 20), (status("VmHWM"), before)
assert status("VmHWM") - before > MEMORY_BYTES // 4  # or this would show nothing
assert status("VmRSS") - before < 8 << 20, (status("VmRSS"), before)
assert "scipy" not in sys.modules and "tokenizers" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert MEMORY_BYTES <= 64 * MB

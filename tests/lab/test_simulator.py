"""Generations in virtual time: what can be reckoned by hand, what must be the same, and events."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from halo_edge.errors import HaloError
from halo_edge.lab.link import LinkSettings
from halo_edge.lab.profiles import load_profile
from halo_edge.lab.shapes import read_shape
from halo_edge.lab.sim_result import Simulated
from halo_edge.lab.sim_trace import LineTrace
from halo_edge.lab.simulator import WARM_TOKENS, Work, simulate
from halo_edge.lab.spec import Action, DeviceSpec, Event, LabSpec, read_spec
from halo_edge.plan.device_profile import HOST, NUMBERS, DeviceProfile, Machine
from halo_edge.plan.model_shape import ModelShape

PI4 = {"pi4": load_profile("pi4")}
TINY = replace(read_shape("tinyllama-1.1b"), n_layers=4)
MACHINE = Machine(cores=2, tick_s=0.004, frame_s=0.0, switch_s=0.0, idle_wake_s=0.0)


def profile(machine: Machine | None = None, **numbers: float) -> DeviceProfile:
    """Nothing costs anything but `numbers`."""
    rates = ("memory_bytes_per_s", "flop_per_s", "kv_bytes_per_s")
    costs: dict[str, Any] = {name: 1e18 if name in rates else 0.0 for name in NUMBERS}
    return DeviceProfile(name=HOST, sources={}, machine=machine, **costs | numbers)


def lab(n: int, *, seed: int = 1, events: tuple[Event, ...] = (), **worker: Any) -> LabSpec:
    """A root with a clean link and `n - 1` workers, all Pi 4 unless said otherwise."""
    worker = {"profile": "pi4"} | worker
    devices = [DeviceSpec("n0", profile=worker["profile"])]
    devices += [DeviceSpec(f"n{i}", **worker) for i in range(1, n)]
    return LabSpec("test", tuple(devices), seed, events)


def both_ways(**settings: Any) -> dict[str, LinkSettings]:
    return {"up": LinkSettings(**settings), "down": LinkSettings(**settings)}


def run(spec: LabSpec, tokens: int = 8, shape: ModelShape = TINY) -> Simulated:
    return simulate(spec, Work(shape, tokens=tokens), PI4)


def tpot_s(found: Simulated) -> float:
    assert found.tpot is not None
    return found.tpot.median


def trace_of(spec: LabSpec) -> str:
    lines: list[str] = []
    simulate(spec, Work(TINY, tokens=3), PI4, LineTrace(lines.append))
    return "".join(lines)


class TestByHand:
    """One layer costs what its parts cost."""

    SHAPE = replace(TINY, n_layers=1)

    def tpot_s(self, n: int, delay_ms: float = 0.0, **numbers: float) -> float:
        spec = lab(n, profile="made", **both_ways(delay_ms=delay_ms))
        made = replace(profile(**numbers), name="made")
        found = simulate(spec, Work(self.SHAPE, prompt=1, tokens=4), {"made": made})
        assert found.ended is None
        return tpot_s(found)

    def test_weights_stream_from_memory(self) -> None:
        shape, rate = self.SHAPE, 1e9
        weights = shape.attention_weights + shape.ffn_weights + shape.head_weights
        assert self.tpot_s(1, memory_bytes_per_s=rate) == pytest.approx(
            weights * shape.weight_bytes / rate
        )

    def test_several_share_the_ffn(self) -> None:
        shape, rate = self.SHAPE, 1e9
        weights = shape.attention_weights + shape.ffn_weights / 4 + shape.head_weights
        assert self.tpot_s(4, memory_bytes_per_s=rate) == pytest.approx(
            weights * shape.weight_bytes / rate, rel=0.01
        )

    def test_x_goes_out_and_the_partial_comes_back(self) -> None:
        assert self.tpot_s(2, delay_ms=3) == pytest.approx(0.006)

    def test_every_datagram_costs_its_sender_and_its_receiver(self) -> None:
        """x has 2 chunks, a partial 4. The worker takes in what the root has yet to send."""
        assert self.tpot_s(2, send_s=0.001) == pytest.approx(0.006)
        assert self.tpot_s(2, seal_s=0.001) == pytest.approx(0.006)
        assert self.tpot_s(2, receive_s=0.001) == pytest.approx(0.006)
        assert self.tpot_s(3, send_s=0.001) == pytest.approx(0.008)  # 4 of x, then 4 in parallel

    def test_x_is_sealed_once_for_all(self) -> None:
        assert self.tpot_s(4, seal_s=0.001) == pytest.approx(0.006)

    def test_other_costs(self) -> None:
        assert self.tpot_s(2, token_s=0.001) == pytest.approx(0.001)
        assert self.tpot_s(2, encode_s=0.001) == pytest.approx(0.001)
        assert self.tpot_s(2, round_s=0.001) == pytest.approx(0.001)
        assert self.tpot_s(2, serve_s=0.001) == pytest.approx(0.001)
        assert self.tpot_s(4, add_s=0.001) == pytest.approx(0.003)
        assert self.tpot_s(2, attention_s=0.001) == pytest.approx(0.001)

    def test_context_costs_more_with_every_token(self) -> None:
        made = replace(profile(kv_bytes_per_s=1e6), name="made")
        spec = lab(1, profile="made")
        found = simulate(spec, Work(self.SHAPE, prompt=1, tokens=3), {"made": made})
        cell_s = 4 * self.SHAPE.kv_width / 1e6
        first = 1 + WARM_TOKENS + 1
        assert found.tokens_s == pytest.approx([cell_s * (first + i) for i in range(3)])


def test_the_same_seed_gives_the_same_trace_byte_for_byte() -> None:
    spec = read_spec("mixed-home")
    profiles = {name: load_profile(name) for name in ("laptop", "pi3", "pi4", "pi5")}
    traces = []
    for seed in (5, 5, 6):
        lines: list[str] = []
        trace = LineTrace(lines.append)
        simulate(replace(spec, seed=seed), Work(TINY, tokens=3), profiles, trace)
        traces.append("".join(lines).encode())
    assert traces[0] == traces[1]
    assert traces[0] != traces[2]
    times = [float(line.split()[0]) for line in traces[0].decode().splitlines()]
    assert times == sorted(times)
    words = traces[0].decode()
    for word in (" sent ", " arrived ", " lost ", " begin ffn", " end ffn", " token"):
        assert word in words


def test_a_trace_accounts_for_every_datagram() -> None:
    lines = trace_of(lab(3, **both_ways(loss=0.1, delay_ms=1))).splitlines()
    sent, arrived, lost = (
        sum(f" {word} " in line for line in lines) for word in ("sent", "arrived", "lost")
    )
    assert lost > 0
    assert 0 <= sent - arrived - lost < 10  # on their way at the end


def test_loss_costs_time_and_never_the_generation() -> None:
    clean = run(lab(4, **both_ways(delay_ms=1)))
    lossy = run(lab(4, **both_ways(delay_ms=1, loss=0.1)))
    assert clean.ended is None and lossy.ended is None
    assert tpot_s(clean) < tpot_s(lossy) < 3 * tpot_s(clean)
    assert lossy.root.chunks_resent and lossy.workers.chunks_resent
    assert clean.root.chunks_resent == 0


def test_more_devices_are_faster() -> None:
    shape = read_shape("tinyllama-1.1b")
    times = [tpot_s(run(lab(n), 3, shape)) for n in (1, 2, 4)]
    assert times[0] > 1.2 * times[1]
    assert times[1] > times[2]


def test_a_cluster_of_64() -> None:
    found = run(lab(64, **both_ways(delay_ms=0.5, loss=0.01)), tokens=2)
    assert found.ended is None and len(found.tokens_s) == 2
    assert len(found.devices) == 64
    assert all(0 <= d.computed <= 1 and 0 <= d.waited <= 1 for d in found.devices)


def test_prompts_take_their_time() -> None:
    short, long = (simulate(lab(2), Work(TINY, prompt=n, tokens=1), PI4) for n in (8, 300))
    assert long.ttft_s > 10 * short.ttft_s


class TestEvents:
    def at(self, *events: tuple[float, Action], n: int = 3, **more: Any) -> Simulated:
        made = tuple(Event(at_s, action, "n1", **more) for at_s, action in events)
        return run(lab(n, events=made, **both_ways(delay_ms=0.2)), tokens=40)

    def test_an_outage_costs_a_token_as_long_as_it_lasts(self) -> None:
        found = self.at((0.5, Action.CUT), (2.0, Action.JOIN))
        assert found.ended is None
        gaps = sorted(found.tokens_s)
        assert 1.4 < gaps[-1] < 1.8
        assert gaps[-2] < 0.2

    def test_clients_are_not_simulated(self) -> None:
        spec = lab(2, events=(Event(0.0, Action.CUT, "laptop"),))
        found = run(replace(spec, clients=(DeviceSpec("laptop"),)), tokens=2)
        assert len(found.tokens_s) == 2 and len(found.devices) == 2

    def test_a_stopped_worker_is_waited_for(self) -> None:
        found = self.at((0.5, Action.STOP), (1.5, Action.CONTINUE))
        assert found.ended is None
        assert 0.9 < max(found.tokens_s) < 1.3

    @pytest.mark.parametrize("action", [Action.KILL, Action.RESTART])
    def test_a_worker_that_is_gone_ends_it(self, action: Action) -> None:
        found = self.at((0.5, action))
        assert found.ended == "worker n1 left in the middle of a generation"
        assert found.virtual_s == pytest.approx(0.52, abs=0.01)
        assert len(found.tokens_s) < 40

    def test_a_link_that_stays_cut_stalls(self) -> None:
        found = self.at((0.5, Action.CUT))
        assert found.ended is not None and "device 1 has been silent" in found.ended
        assert 10.4 < found.virtual_s < 11.5

    def test_a_slower_device_slows_the_cluster(self) -> None:
        found = self.at((0.5, Action.SPEED), speed=0.1)
        assert max(found.tokens_s) > 2 * min(found.tokens_s)

    def test_a_worse_link_slows_the_cluster(self) -> None:
        found = self.at((0.5, Action.LINK), link=LinkSettings(delay_ms=10))
        assert max(found.tokens_s) > min(found.tokens_s) + 0.07


class TestHost:
    """Devices without a profile are processes of one machine."""

    COST = profile(MACHINE, memory_bytes_per_s=1e9)

    def tpot_s(self, n: int, made: DeviceProfile = COST, **device: Any) -> float:
        devices = tuple(DeviceSpec(f"n{i}", **device) for i in range(n))
        work = Work(replace(TINY, n_layers=2), tokens=10)
        found = simulate(LabSpec("test", devices, 3), work, {HOST: made})
        assert found.ended is None
        return sum(found.tokens_s) / len(found.tokens_s)

    def test_on_one_core_nothing_is_computed_at_the_same_time(self) -> None:
        alone = self.tpot_s(1)
        assert self.tpot_s(4, cores=(1,)) == pytest.approx(alone, rel=0.02)

    def test_two_cores_compute_at_the_same_time(self) -> None:
        assert self.tpot_s(2) < 0.8 * self.tpot_s(2, cores=(0,))

    @pytest.mark.parametrize("speed", [0.2, 0.5])
    def test_a_quota_makes_it_so_much_slower(self, speed: float) -> None:
        assert self.tpot_s(1, speed=speed) == pytest.approx(self.tpot_s(1) / speed, rel=0.05)

    def test_slow_devices_are_faster_together(self) -> None:
        assert self.tpot_s(4, speed=0.2) < 0.7 * self.tpot_s(1, speed=0.2)

    def test_the_forwarder_takes_a_core_from_them(self) -> None:
        busy = replace(self.COST, machine=replace(MACHINE, frame_s=0.001))
        # It takes in x's two chunks one after another and hands them over, then the partial's four.
        # A core of its own would not help: nobody has anything else to do meanwhile.
        added_s = self.tpot_s(2, busy, cores=(0,)) - self.tpot_s(2, cores=(0,))
        assert added_s == pytest.approx(2 * 0.004)

    def test_what_is_missing_is_said(self) -> None:
        work, spec = Work(TINY), LabSpec("test", (DeviceSpec("n0", cores=(7,)),))
        for found, said in (
            ({}, "device n0 needs the profile 'host'"),
            ({HOST: profile()}, "does not say what machine"),
            ({HOST: self.COST}, "device n0 is for the cores [7], but"),
        ):
            with pytest.raises(HaloError) as raised:
                simulate(spec, work, found)
            assert said in str(raised.value) and "\n" not in str(raised.value)

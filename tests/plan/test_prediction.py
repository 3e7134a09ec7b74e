"""Predictions: against the simulator, and what they say of damage."""

from __future__ import annotations

from dataclasses import replace
from statistics import fmean
from typing import Any

import numpy as np
import pytest
from tests.plan.clusters import FOUR_LAYERS, TINYLLAMA, cluster, worker, workload

from halo_edge.lab.link import LinkSettings
from halo_edge.lab.planned import planned
from halo_edge.lab.profiles import load_profile
from halo_edge.lab.simulator import WARM_TOKENS, Work, simulate
from halo_edge.lab.spec import DeviceSpec, LabSpec, read_spec
from halo_edge.plan.criticality import Criticality
from halo_edge.plan.device_profile import HOST, Machine
from halo_edge.plan.plan import Copies, Plan, split
from halo_edge.plan.prediction import Predictions
from halo_edge.plan.workload import Workload

N = TINYLLAMA.partition.n_groups
PROFILES = {name: load_profile(name) for name in ("pi3", "pi4", "pi5", "laptop")}
# This machine's, with numbers that do not change from day to day: the laptop's.
MACHINE = Machine(cores=2, tick_s=0.004, frame_s=3e-5, switch_s=5e-6, idle_wake_s=1e-5)
PROFILES[HOST] = replace(PROFILES["laptop"], name=HOST, machine=MACHINE)


def both_ways(**settings: Any) -> dict[str, LinkSettings]:
    return {"up": LinkSettings(**settings), "down": LinkSettings(**settings)}


def lab(n: int, profile: str | None = "pi4", **link: Any) -> LabSpec:
    workers = [DeviceSpec(f"n{i}", profile=profile, **both_ways(**link)) for i in range(1, n)]
    return LabSpec("test", (DeviceSpec("n0", profile=profile), *workers), seed=3)


def on_host(spec: LabSpec, **settings: Any) -> LabSpec:
    return replace(spec, devices=tuple(replace(d, profile=None, **settings) for d in spec.devices))


def with_speeds(*speeds: float) -> LabSpec:
    spec = on_host(lab(len(speeds), delay_ms=0.5))
    devices = zip(spec.devices, speeds, strict=True)
    return replace(spec, devices=tuple(replace(d, speed=speed) for d, speed in devices))


@pytest.mark.parametrize(
    ("spec", "weights", "tokens"),
    [
        pytest.param(lab(1), [1], 4, id="alone"),
        pytest.param(lab(4, delay_ms=0.1), [1, 1, 1, 1], 4, id="equal"),
        pytest.param(lab(4, delay_ms=0.5), [34, 22, 18, 14], 4, id="unequal shares"),
        pytest.param(lab(8, delay_ms=2, jitter_ms=0.5), [1] * 8, 4, id="8, RTT 4 ms"),
        pytest.param(lab(4, rate_mbit=20), [1, 1, 1, 1], 4, id="20 Mbit/s"),
        pytest.param(lab(4, "pi5", delay_ms=1, loss=0.05), [1] * 4, 16, id="5 % loss"),
        pytest.param(lab(3, delay_ms=1, loss=0.15), [1, 1, 1], 16, id="15 % loss"),
        pytest.param(read_spec("mixed-home"), [60, 16, 8, 4], 8, id="mixed"),
        pytest.param(on_host(lab(4, delay_ms=1), cores=(1,)), [1] * 4, 4, id="one core"),
        pytest.param(with_speeds(0.4, 0.4, 0.2, 0.1), [1] * 4, 8, id="quotas, equal shares"),
        pytest.param(with_speeds(0.4, 0.4, 0.2, 0.1), [20, 42, 19, 7], 8, id="quotas"),
    ],
)
def test_as_the_simulator_has_it(spec: LabSpec, weights: list[float], tokens: int) -> None:
    plan = split(N, weights)
    found = simulate(spec, Work(FOUR_LAYERS, tokens=tokens), PROFILES, plan=plan)
    assert found.ended is None
    made = Workload(FOUR_LAYERS, prompt=8, answer=2 * WARM_TOKENS + tokens)
    predicted_s = Predictions(planned(spec, PROFILES), made).of(plan).tpot_s
    assert predicted_s == pytest.approx(fmean(found.tokens_s), rel=0.10)


def test_copies_as_the_simulator_has_them() -> None:
    spec = lab(3, delay_ms=1, loss=0.1)
    work = Work(FOUR_LAYERS, tokens=40, max_copies=4)
    found = simulate(spec, work, PROFILES)
    predictions = Predictions(planned(spec, PROFILES), Workload(FOUR_LAYERS, prompt=8, answer=46))
    copies = (Copies(), *(predictions.losses.copies(d) for d in (1, 2)))
    assert copies[1].x > 1
    plan = replace(split(N, [1, 1, 1]), copies=copies)
    assert predictions.of(plan).tpot_s == pytest.approx(fmean(found.tokens_s), rel=0.10)


def test_prompts_as_the_simulator_has_them() -> None:
    spec, shape = lab(3, delay_ms=1), replace(TINYLLAMA, n_layers=1)
    found = simulate(spec, Work(shape, prompt=128, tokens=1), PROFILES)
    prediction = Predictions(planned(spec, PROFILES), Workload(shape, prompt=128)).of(
        split(N, [1, 1, 1])
    )
    assert prediction.ttft_s == pytest.approx(found.ttft_s, rel=0.10)


def test_what_a_device_s_row_says() -> None:
    made = Predictions(cluster(worker(rtt_ms=2, loss=0.05), worker("pi3")), workload())
    root, lossy, slow = made.of(split(N, [2, 1, 1])).devices
    assert (root.share, root.groups, root.link_s, root.wait_s) == (0.5, 44, 0, 0)
    assert lossy.link_s == pytest.approx(22 * 0.002)
    assert lossy.wait_s > 0 and slow.wait_s == 0
    assert slow.compute_s > 3 * lossy.compute_s
    assert lossy.damage_nats == 0  # nothing is known of the groups


class TestDamage:
    NATS = np.ones((22, N)) * np.linspace(0.02, 0.001, N)  # the first groups matter most
    LOSSY = cluster(worker(rtt_ms=2, loss=0.05), worker(rtt_ms=2, loss=0.02))
    PLAN = split(N, [1, 1, 1])

    def of(self, budget: float, plan: Plan = PLAN) -> Any:
        known = workload(criticality=Criticality(self.NATS), kl_budget=budget)
        return Predictions(self.LOSSY, known).of(plan)

    def test_at_stake_is_what_is_lost_at_first(self) -> None:
        missing = [1 - 0.95**3, 1 - 0.98**3]  # two chunks of x, and each chunk of the partial
        shares = [self.NATS[:, share.start : share.stop].sum() for share in self.PLAN.shares[1:]]
        expected = sum(m * nats for m, nats in zip(missing, shares, strict=True))
        assert self.of(0.0).at_stake_nats == pytest.approx(expected)

    def test_no_more_than_the_budget_is_spent(self) -> None:
        assert self.of(0.0).damage_nats == 0
        at_stake = self.of(0.0).at_stake_nats
        for budget in (0.01, 0.1, at_stake / 2):
            assert self.of(budget).damage_nats == pytest.approx(budget)
        assert self.of(2 * at_stake).damage_nats == pytest.approx(at_stake)

    def test_a_budget_buys_time(self) -> None:
        times = [self.of(budget).tpot_s for budget in (0.0, 0.5, 5.0)]
        assert times[0] > times[1] > times[2]

    def test_the_damage_is_spent_by_the_devices(self) -> None:
        found = self.of(0.1)
        assert sum(d.damage_nats for d in found.devices) == pytest.approx(found.damage_nats)
        assert found.devices[0].damage_nats == 0

    def test_less_is_at_stake_where_the_critical_are_reliable(self) -> None:
        first, second, third = self.PLAN.shares
        assert self.of(0.0, Plan((first, third, second))).at_stake_nats < (
            self.of(0.0, Plan((first, second, third))).at_stake_nats
        )


def test_a_plan_for_another_cluster() -> None:
    predictions = Predictions(cluster(worker()), workload())
    for plan in (split(N, [1, 1, 1]), split(N - 1, [1, 1])):
        with pytest.raises(ValueError, match="another cluster"):
            predictions.of(plan)
        with pytest.raises(ValueError, match="another cluster"):
            predictions.ttft_s(plan)

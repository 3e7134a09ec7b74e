"""The machine at hand in virtual time, which the devices of a lab without a profile share."""

from __future__ import annotations

import random

import simpy

from halo_edge.errors import HaloError
from halo_edge.lab.cgroups import cpu_quota
from halo_edge.lab.sim_cpu import Cpu, SharedThread
from halo_edge.lab.sim_network import Forwarder
from halo_edge.lab.sim_quota import Quota
from halo_edge.lab.spec import DeviceSpec, LabSpec
from halo_edge.plan.device_profile import HOST, DeviceProfile, Machine


class Host:
    """The machine at hand, which devices without a profile share, as they do in a lab."""

    def __init__(
        self, env: simpy.Environment, spec: LabSpec, profile: DeviceProfile | None
    ) -> None:
        self._env, self._seed = env, spec.seed
        self.forwarder: Forwarder | None = None
        if profile is None:
            return
        if profile.machine is None:
            raise HaloError(f"the profile {HOST} does not say what machine it is; measure it again")
        self._machine: Machine = profile.machine
        self._cpu = Cpu(env, self._machine.cores, self._machine.tick_s, self._machine.idle_wake_s)
        if self._machine.frame_s:
            urgent = self._cpu.thread(precedence=True)
            self.forwarder = Forwarder(env, urgent, self._machine.frame_s)

    def thread(self, device: DeviceSpec) -> SharedThread:
        """Raises `HaloError` for a core that is not there."""
        if any(core >= self._machine.cores for core in device.cores):
            raise HaloError(
                f"device {device.name} is for the cores {list(device.cores)}, but the profile "
                f"{HOST} is of a machine with {self._machine.cores}"
            )
        quota = None if device.speed is None else self.quota(device.name, device.speed)
        return self._cpu.thread(quota, device.cores)

    def quota(self, device: str, speed: float) -> Quota:
        quota_s, period_s = cpu_quota(speed)
        phase_s = random.Random(f"{self._seed}/{device}/quota").random() * period_s
        return Quota(quota_s, period_s, phase_s=phase_s, tick_s=self._machine.tick_s)

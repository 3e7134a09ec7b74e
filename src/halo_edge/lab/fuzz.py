"""Fault schedules: whole clusters in virtual time under whatever can happen to them, checked after
every event. A seed is a schedule; one that fails fails again.
"""

from __future__ import annotations

import hashlib
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, cast

import simpy

from halo_edge.lab.fuzz_audit import AuditedInbox, AuditedNetwork, flip
from halo_edge.lab.fuzz_checks import Broken, RoundChecks
from halo_edge.lab.fuzz_schedule import STALL_TIMEOUT_S, Schedule, schedule_of
from halo_edge.lab.link import Link
from halo_edge.lab.reachability import Reachability
from halo_edge.lab.sim_device import Place, RootDevice, WorkerDevice
from halo_edge.lab.sim_network import Port
from halo_edge.lab.sim_thread import OwnCore, Process
from halo_edge.lab.sim_trace import LineTrace
from halo_edge.lab.spec import Action, Event
from halo_edge.plan.costs import Costs
from halo_edge.plan.device_profile import NUMBERS, DeviceProfile
from halo_edge.plan.model_shape import ModelShape
from halo_edge.sync.errors import DeviceStalled
from halo_edge.sync.ids import DeviceId, RoundId
from halo_edge.sync.root import RootRounds
from halo_edge.sync.timing import Recovery
from halo_edge.sync.worker import WorkerRounds

LAST_EVENTS: Final = 40
# Of a whole schedule some 50,000 at the most; many of them may happen at one instant.
MAX_EVENTS: Final = 400_000
# A stalled round costs an epoch; a schedule with more of them shows nothing new.
MAX_EPOCHS: Final = 3
AWAY_AFTER_S: Final = 0.05
_ROOT_PORT: Final = 0


@dataclass(frozen=True)
class Report:
    """What a schedule came to. `broken`: which invariant, or None; `last`: the events before."""

    seed: int
    rounds: int
    epochs: int
    events: int
    datagrams: int
    virtual_s: float
    traffic: float
    """The most datagrams of a round, as a share of what it may take."""
    broken: str | None = None
    last: tuple[str, ...] = ()


def run_schedule(seed: int) -> Report:
    """Never raises for what the schedule brings out."""
    return _Run(schedule_of(seed)).run()


class _Run:
    def __init__(self, schedule: Schedule) -> None:
        self._schedule = schedule
        seed = schedule.lab.seed
        self._env = simpy.Environment()
        self._lines: deque[str] = deque(maxlen=LAST_EVENTS)
        self._trace = LineTrace(self._lines.append)
        self._random = random.Random(f"x {seed}")
        self._key = hashlib.sha256(f"fuzz {seed}".encode()).digest()
        ports = [
            Port(
                device.name,
                Link(device.up, f"{seed}/{device.name}/up"),
                Link(device.down, f"{seed}/{device.name}/down"),
                AuditedInbox(self._env, schedule.inbox),
            )
            for device in schedule.lab.devices
        ]
        self._network = AuditedNetwork(self._env, ports, self._trace, flip)
        self._threads = [OwnCore(self._env) for _ in ports]
        self._devices = {DeviceId(port): port for port in range(1, len(ports))}
        self._reach = Reachability(len(ports))
        self._serving: dict[int, simpy.Process] = {}
        self._epoch = self._rounds = self._events = 0
        self._traffic = 0.0
        self._checks: RoundChecks | None = None

    def run(self) -> Report:
        env = self._env
        for event in self._schedule.lab.events:
            timer = env.timeout(event.at_s)
            assert timer.callbacks is not None
            timer.callbacks.append(partial(self._happen, event))
        broken = None
        try:
            script = env.process(self._script())
            while script.is_alive:
                if env.peek() == float("inf"):
                    raise Broken("nobody waits for anything, and yet the round has not ended")
                env.step()
                self._events += 1
                if self._events > MAX_EVENTS:
                    raise Broken(
                        f"over {MAX_EVENTS} events, as when a deadline has passed for good"
                    )
                if self._checks is not None:
                    self._checks.look(env.now)
            if not script.ok:
                raise cast(Exception, script.value)
        except Exception as error:  # whatever it is, it is what the seed brought out
            broken = f"{type(error).__name__}: {error}"
        return Report(
            seed=self._schedule.lab.seed,
            rounds=self._rounds,
            epochs=self._epoch,
            events=self._events,
            datagrams=self._network.sent,
            virtual_s=env.now,
            traffic=self._traffic,
            broken=broken,
            last=tuple(line.rstrip() for line in self._lines) if broken else (),
        )

    def _script(self) -> Process:
        """All rounds, in as many epochs as they take."""
        rounds = list(enumerate(self._schedule.rounds))
        while rounds and self._epoch < MAX_EPOCHS:
            root, checks = self._begin_epoch()
            try:
                while rounds:
                    step, plan = rounds[0]
                    yield self._env.timeout(plan.pause_s)
                    yield from self._round(root, checks, RoundId(step, step % 2), plan.tokens)
                    del rounds[0]
            except DeviceStalled as stalled:
                self._trace.happens(self._env.now, f"stalled: device {stalled.device}")
                since = self._env.now - STALL_TIMEOUT_S
                reachable_s = self._reach.reachable_s(stalled.device, since, self._env.now)
                checks.stalled(stalled.device, reachable_s, self._env.now)

    def _round(
        self, root: RootDevice, checks: RoundChecks, round_id: RoundId, tokens: int
    ) -> Process:
        x = self._random.randbytes(tokens * self._schedule.layout.x_row_bytes)
        self._trace.happens(self._env.now, f"{round_id} of {tokens} tokens")
        checks.begin(round_id, tokens, x, self._env.now)
        yield from root.round(round_id, tokens, x)
        checks.end(self._env.now)
        self._traffic = max(self._traffic, checks.traffic)
        self._rounds += 1

    def _begin_epoch(self) -> tuple[RootDevice, RoundChecks]:
        """New ends for everybody, as after a stall: what was stopped or restarted is there again,
        what is under way still arrives."""
        self._epoch += 1
        schedule, env = self._schedule, self._env
        layout = schedule.layout
        recovery = Recovery(away_after_s=AWAY_AFTER_S) if schedule.take_over else Recovery()
        for process in self._serving.values():
            if process.is_alive:
                process.interrupt()
        for port, thread in enumerate(self._threads):
            thread.resume()
            self._reach.back(port, env.now)
        rounds = RootRounds(
            self._key,
            layout,
            list(self._devices),
            epoch=self._epoch,
            recovery=recovery,
            stall_timeout_s=STALL_TIMEOUT_S,
        )
        workers = {
            device: WorkerRounds(self._key, layout, device, epoch=self._epoch, recovery=recovery)
            for device in self._devices
        }
        checks = self._checks = RoundChecks(layout, rounds, workers, schedule.take_over)
        self._network.checks = checks
        for device, port_number in self._devices.items():
            self._audit(port_number, checks.worker_ends[device].handed)
            worker = WorkerDevice(
                self._place(port_number),
                _ROOT_PORT,
                workers[device],
                1,
                partial(checks.answer, device),
            )
            self._serving[port_number] = env.process(_until_interrupted(worker.serve()))
        self._audit(_ROOT_PORT, checks.root_end.handed)
        go_on = partial(self._go_on, rounds, checks)
        return RootDevice(self._place(_ROOT_PORT), rounds, 1, self._devices, go_on), checks

    def _go_on(self, rounds: RootRounds, checks: RoundChecks, now: float) -> None:
        """Supply what devices that are away owe, and now and then what is overdue."""
        for overdue in rounds.overdue(now):
            checks.overdue(overdue)
            if self._random.random() < self._schedule.impatience:
                checks.supply(overdue.device, overdue.missing)
        for device in rounds.away:
            checks.supply(device, rounds.missing(device))

    def _audit(self, port: int, handed: Callable[[bytes], None]) -> None:
        inbox = self._network.ports[port].inbox
        assert isinstance(inbox, AuditedInbox)
        inbox.handed = handed

    def _place(self, port: int) -> Place:
        costs = _costs(self._schedule.compute_s[port], self._schedule.datagram_s)
        return Place(self._env, self._network, port, self._threads[port], costs, self._trace)

    def _happen(self, event: Event, _: simpy.Event) -> None:
        env, action = self._env, event.action
        self._trace.happens(env.now, f"{action} {event.device}")
        index = [device.name for device in self._schedule.lab.devices].index(event.device)
        port, thread, reach = self._network.ports[index], self._threads[index], self._reach
        if action in (Action.CUT, Action.JOIN):
            port.cut(action is Action.CUT)
            reach.plugged(index, env.now, action is Action.JOIN)
        elif action is Action.LINK:
            assert event.link is not None
            port.change(event.link)
        elif action is Action.SPEED:
            assert event.speed is not None
            thread.rate = event.speed
        elif action is Action.STOP:
            thread.stop()
            reach.gone(index, env.now)
        elif action is Action.CONTINUE:
            thread.resume()
            if self._serving[index].is_alive:
                reach.back(index, env.now)
        else:  # restarted: it knows nothing of this epoch, and keeps silent
            if self._serving[index].is_alive:
                self._serving[index].interrupt()
            thread.resume()
            port.inbox = AuditedInbox(env, self._schedule.inbox)
            reach.gone(index, env.now)


def _until_interrupted(process: Process) -> Process:
    try:
        yield from process
    except simpy.Interrupt:
        return


def _costs(compute_s: float, datagram_s: float) -> Costs:
    """Computing takes `compute_s`, a datagram `datagram_s`, nothing else anything."""
    numbers: dict[str, Any] = dict.fromkeys(NUMBERS, 0.0) | {
        "memory_bytes_per_s": 1e18,
        "flop_per_s": 1e18,
        "kv_bytes_per_s": 1e18,
        "graph_s": compute_s,
        "send_s": datagram_s,
        "receive_s": datagram_s,
    }
    profile = DeviceProfile(name="fuzz", sources={}, **numbers)
    return Costs(profile, ModelShape("fuzz", 1, 1, 1, 1, 1, 1, 1, 1.0))

"""What a chat says of the devices: a status line, and news of those that fall silent or leave."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from rich.box import SIMPLE_HEAD
from rich.table import Table

from halo_edge.cluster.overview import DeviceOverview, Overview, State
from halo_edge.engine.generation import Generation

# A burst of loss is shorter as a rule; nobody needs to read of it.
AWAY_S: Final = 1.0


def devices_line(overview: Overview | None) -> str:
    """How many take part, and the worst loss on their links."""
    if overview is None:
        return "1 device"
    count = in_use(overview)
    line = "1 device" if count == 1 else f"{count} devices"
    silent = [device.name for device in overview.devices if device.state is State.AWAY]
    if silent:
        line += f", {', '.join(silent)} away"
    return line + worst_loss(overview)


def in_use(overview: Overview) -> int:
    """How many devices compute at present."""
    return sum(device.state is State.IN_USE for device in overview.devices)


def worst_loss(overview: Overview) -> str:
    """Of the links, either way, to follow other words; empty without links."""
    losses = [loss for device in overview.devices for loss in _losses(device)]
    return f", loss up to {max(losses) * 100:.1f} %" if losses else ""


def status_line(overview: Overview | None, generation: Generation, nats: float) -> str:
    """Of an answer while it comes. `nats`: it has spent."""
    parts, sequence = [devices_line(overview)], generation.sequence
    if not generation.tokens:
        parts.append(f"prompt {sequence.n_computed}/{sequence.n_prompt} tokens")
    elif generation.tpot_ms:
        parts.append(f"{1e3 / generation.tpot_ms:.1f} tokens/s")
    if overview is not None:
        parts.append(f"{nats:.4f} nats")
    return ", ".join(parts)


def device_table(overview: Overview) -> Table:
    """A row for each device that is known."""
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for heading in ("device", "host", "is"):
        table.add_column(heading)
    for heading in ("share, %", "RTT, ms", "lost, %", "FFN, ms a token"):
        table.add_column(heading, justify="right")
    for device in overview.devices:
        link = device.link
        table.add_row(
            device.name,
            device.host,
            device.state.value,
            f"{device.share * 100:.0f}",
            _ms(link.srtt_s if link is not None else None),
            "/".join(f"{loss * 100:.1f}" for loss in _losses(device)) or "-",
            _ms(device.compute_s),
        )
    return table


class DeviceWatch:
    """Compares what is known of the devices with what was the last time."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._states: dict[int, State] = {}
        self._silent_since_s: dict[int, float] = {}
        self._missing: set[int] = set()  # of those somebody was told

    def news(self, overview: Overview) -> list[str]:
        """Lines for people."""
        now = self._clock()
        lines = []
        for device in overview.devices:
            before = self._states.get(device.number)
            self._states[device.number] = device.state
            line = self._news(device, before, now)
            if line is not None:
                lines.append(line)
        return lines

    def _news(self, device: DeviceOverview, before: State | None, now: float) -> str | None:
        number = device.number
        if device.state is State.AWAY:
            silent_s = now - self._silent_since_s.setdefault(number, now)
            if silent_s < AWAY_S or number in self._missing:
                return None
            self._missing.add(number)
            return f"{device.name} does not answer: its part is computed elsewhere meanwhile"
        self._silent_since_s.pop(number, None)
        if device.state is State.LEFT:
            if before is State.LEFT or before is None:
                return None
            self._missing.add(number)
            return f"{device.name} has left: its part is computed elsewhere from now on"
        if device.state is State.IN_USE and number in self._missing:
            self._missing.remove(number)
            return f"{device.name} is back"
        return None


def _losses(device: DeviceOverview) -> tuple[float, ...]:
    """To it, and from it."""
    if device.link is None or device.state is not State.IN_USE:
        return ()
    return device.link.loss_to, device.link.loss_from


def _ms(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds * 1e3:.1f}"

"""The process that makes a lab's links, whichever it is: starting it, asking it, ending it."""

from __future__ import annotations

import select
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from halo_edge.errors import HaloError
from halo_edge.lab.fabric import DeviceCounters
from halo_edge.lab.forwarder import READY
from halo_edge.lab.forwarder_control import Ask, ForwarderClient, SetLink, Status
from halo_edge.lab.link import LinkSettings

START_TIMEOUT_S: Final = 20.0
END_TIMEOUT_S: Final = 5.0


class ProcessFabric:
    """What every `Fabric` does that is a process with a control socket. Raises `HaloError`."""

    def __init__(self, control: Path) -> None:
        self._client = ForwarderClient(control)

    def links(self) -> dict[str, tuple[LinkSettings, LinkSettings]]:
        return {name: (status.up, status.down) for name, status in self.status().devices.items()}

    def set_link(self, device: str, up: LinkSettings, down: LinkSettings) -> None:
        self._client.ask(SetLink(device, up, down))

    def counters(self) -> dict[str, DeviceCounters]:
        return {
            name: DeviceCounters(status.up_counters, status.down_counters)
            for name, status in self.status().devices.items()
        }

    def status(self) -> Status:
        return self._client.ask(Ask())

    def close(self) -> None:
        self._client.close()


@contextmanager
def started(command: Sequence[str], what: str) -> Iterator[None]:
    """Run `command`, called `what`, from when it says that it is ready.

    Raises `HaloError` with its last words if it never does.
    """
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None and process.stderr is not None
        readable, _, _ = select.select([process.stdout], (), (), START_TIMEOUT_S)
        if not readable or process.stdout.readline().strip() != READY:
            process.kill()
            reason = process.stderr.read().strip().splitlines() or ["it did not start"]
            raise HaloError(f"{what}: {reason[-1].removeprefix('halo: ')}")
        yield
    finally:
        process.terminate()
        try:
            process.communicate(timeout=END_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()

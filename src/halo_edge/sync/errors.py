"""What can go wrong in a round that a person should hear of."""

from __future__ import annotations

from halo_edge.errors import HaloError
from halo_edge.sync.ids import DeviceId


class BadLayout(HaloError):
    """The sizes of a session's rounds do not fit together."""


class CountersExhausted(HaloError):
    """A device has used up its datagram counters; another datagram would repeat a nonce."""


class DeviceStalled(HaloError):
    """A device whose answer is awaited has been silent for too long."""

    def __init__(self, device: DeviceId, silent_s: float) -> None:
        super().__init__(
            f"device {device} has been silent for {silent_s:.1f} s in the middle of a round: "
            "see whether it runs and can be reached, then start again"
        )
        self.device = device
        self.silent_s = silent_s

"""A device's profile: how fast a kind of machine computes, and what its protocol costs it.

Numbers and where they are from. Who measures them, and what file they lie in, is not known here.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Annotated, Final

from msgspec import Meta

HOST: Final = "host"
"""The name of the profile of the machine at hand."""

_Seconds = Annotated[float, Meta(ge=0, le=10)]
_Rate = Annotated[float, Meta(ge=1e3, le=1e18)]


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What the devices of a lab have in common when they are processes of one machine."""

    cores: Annotated[int, Meta(ge=1, le=4096)]
    tick_s: _Seconds
    """Between two ticks of the kernel's timer."""
    frame_s: _Seconds
    """CPU time in which the lab's forwarder passes a frame on; 0: links cost none."""
    switch_s: _Seconds
    """From one process to another on the same core."""
    idle_wake_s: _Seconds
    """What an idle core needs in addition to begin."""


@dataclass(frozen=True, kw_only=True)
class DeviceProfile:
    """Times are CPU time; datagrams are those of a round (1.1 kB and the like).

    `sources` says of each number, by its name, where it is from; `others` of those not named.
    """

    name: str
    memory_bytes_per_s: _Rate
    """Weights multiplied with one token's vector."""
    flop_per_s: _Rate
    """Weights multiplied with many tokens' vectors: two operations for each weight and token."""
    kv_bytes_per_s: _Rate
    """Keys and values read by attention."""
    graph_s: _Seconds
    """Of every call of a compute graph."""
    attention_s: _Seconds
    """Of a layer's attention for one token, beside its graph, weights, keys and values."""
    token_s: _Seconds
    """Of a step at the root, outside of layers and head: inputs, embedding, sampling."""
    encode_s: _Seconds
    """One token's x, encoded for the wire."""
    add_s: _Seconds
    """One worker's partial for one token, decoded and added; beside the graph."""
    round_s: _Seconds
    """Of a round at the root: begun, its books kept."""
    serve_s: _Seconds
    """Of a round at a worker: its books kept, the partial copied."""
    seal_s: _Seconds
    """Of a datagram: cut and sealed."""
    send_s: _Seconds
    """Of a datagram to one device: handed to the kernel."""
    receive_s: _Seconds
    """Of a datagram: taken from the kernel, opened, entered in the books."""
    crypto_s_per_byte: _Seconds
    """Of sealing or opening, beyond what the above contain; where the CPU has no AES of its own."""
    wake_s: _Seconds
    """From the arrival of what was waited for until it is being looked at."""
    sources: dict[str, str]
    machine: Machine | None = None
    """Of a profile that was measured on a machine, to say what a lab on it does."""


NUMBERS: Final = tuple(
    f.name for f in fields(DeviceProfile) if f.name not in ("name", "sources", "machine")
)

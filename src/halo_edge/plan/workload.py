"""What a cluster is to compute: a model, a prompt and an answer, and what may be lost meanwhile.

Also how much of it travels: a round sends x to every worker and a partial back, cut into datagrams.
The sizes are those of the protocol (docs/protocol.md), which this room does not import.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Final, NamedTuple

from halo_edge.compute.wire import Wire, WireCodec
from halo_edge.plan.criticality import Criticality
from halo_edge.plan.model_shape import ModelShape

MAX_PAYLOAD: Final = 1200
"""Bytes of a chunk."""
OVERHEAD: Final = 48 + 42
"""Of a datagram beside its payload: header, body and tag; Ethernet, IPv4 and UDP."""
PREFILL_CHUNK: Final = 128
"""Tokens of a prompt that one step takes."""
MAX_COPIES: Final = 4
"""How often a chunk travels at the most."""


class Matrix(NamedTuple):
    """What travels from one device to another in a round. `nbytes`: on the wire, headers and
    all."""

    datagrams: int
    nbytes: int

    @property
    def each_bytes(self) -> float:
        """Of a datagram."""
        return self.nbytes / self.datagrams if self.datagrams else 0.0

    def part(self, datagrams: int) -> Matrix:
        """At most so many of its datagrams."""
        if datagrams >= self.datagrams:
            return self
        return Matrix(datagrams, round(datagrams * self.each_bytes))


@dataclass(frozen=True)
class Workload:
    """`prompt`, `answer`: tokens. `kl_budget`: nats a token within which a round need not wait for
    what is lost; of use only where a calibration says how critical neuron groups are.
    `max_copies`: how often a chunk may travel at once. `cells`: that the root's KV cache has; None:
    as many as it takes. `replicas`: how many other workers are to hold each worker's groups.
    `rank`: of the calibration's sketch; 0 without one. Raises ValueError for what makes no
    sense."""

    shape: ModelShape
    wire: Wire = Wire.MIXED
    prompt: int = PREFILL_CHUNK
    answer: int = PREFILL_CHUNK
    kl_budget: float = 0.0
    criticality: Criticality | None = None
    max_copies: int = MAX_COPIES
    cells: int | None = None
    replicas: int = 1
    rank: int = 0

    def __post_init__(self) -> None:
        if self.prompt < 1 or self.answer < 1 or self.max_copies < 1 or not self.kl_budget >= 0:
            raise ValueError("a workload has a prompt and an answer, and a budget of 0 or more")
        known, partition = self.criticality, self.shape.partition
        if known is not None and (known.n_layers, known.n_groups) != (
            self.shape.n_layers,
            partition.n_groups,
        ):
            raise ValueError("the calibration is of another model, or of other neuron groups")

    @property
    def context(self) -> int:
        """Tokens that a decoded token looks at, on average over the answer."""
        return self.prompt + (self.answer + 1) // 2

    @property
    def kv_cells(self) -> int:
        """For which the root has memory."""
        return self.prompt + self.answer if self.cells is None else self.cells

    @property
    def prefill_steps(self) -> tuple[int, ...]:
        """The tokens of each step of the prompt."""
        whole, rest = divmod(self.prompt, PREFILL_CHUNK)
        return (PREFILL_CHUNK,) * whole + ((rest,) if rest else ())

    @cached_property
    def _x(self) -> WireCodec:
        return WireCodec(self.wire.x, self.shape.hidden)

    @cached_property
    def _partial(self) -> WireCodec:
        return WireCodec(self.wire.partial, self.shape.hidden)

    def x(self, tokens: int) -> Matrix:
        """What the root sends each worker."""
        return _matrix(self._x, tokens)

    def partial(self, tokens: int) -> Matrix:
        """What each worker answers."""
        return _matrix(self._partial, tokens)


def _matrix(codec: WireCodec, tokens: int) -> Matrix:
    """Whole rows in a datagram, or a row in several, cut between blocks (`sync/chunks.py`)."""
    rows = max(1, MAX_PAYLOAD // codec.row_bytes)
    usable = MAX_PAYLOAD // codec.block_bytes * codec.block_bytes
    pieces = -(-codec.row_bytes // usable)
    datagrams = -(-tokens // rows) * pieces
    return Matrix(datagrams, tokens * codec.row_bytes + datagrams * OVERHEAD)

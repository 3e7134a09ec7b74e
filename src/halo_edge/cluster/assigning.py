"""The root tells workers their part in an epoch, and waits until they are ready for it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import zenoh

from halo_edge.cluster import control
from halo_edge.cluster.addresses import local_address_towards, shared_bits
from halo_edge.cluster.holdings import Holdings
from halo_edge.cluster.messages import (
    CONTROL_VERSION,
    Assignment,
    AssignmentReply,
    Coming,
    FillTask,
    LeftOut,
    Tile,
    Transport,
    WorkerInfo,
    decode,
    encode,
)
from halo_edge.compute.wire import Wire
from halo_edge.errors import HaloError
from halo_edge.sync.ids import DeviceId
from halo_edge.sync.layout import RoundLayout

# The shards of a 7B model over a 100 Mbit/s link take some five minutes.
ASSIGN_TIMEOUT_S: Final = 1800.0


@dataclass(frozen=True)
class Terms:
    """What all assignments of a root's session have in common. `root_port`: of rounds."""

    cluster: str
    session: str
    key: bytes
    layout: RoundLayout
    root_port: int
    transport: Transport
    wire: Wire
    width: int
    trace: bool


class Assigned:
    """Workers that were asked to load their parts. `pending`: their names, and their replies to
    come."""

    def __init__(self, pending: Sequence[tuple[str, Iterable[zenoh.Reply]]]) -> None:
        self._pending = pending

    def wait(self) -> None:
        """Until each is ready. Raises `HaloError` for a worker that refuses, or leaves."""
        for name, replies in self._pending:
            answer = next((r.ok for r in replies if r.ok is not None), None)
            if answer is None:
                raise HaloError(f"worker {name} left while its shards were loaded")
            reply = decode(answer.payload.to_bytes(), AssignmentReply, name)
            if reply.error:
                raise HaloError(reply.error)


def assign(
    control_session: zenoh.Session,
    terms: Terms,
    epoch: int,
    workers: Mapping[DeviceId, WorkerInfo],
    holdings: Holdings,
    fills: Mapping[DeviceId, FillTask],
    between: Callable[[], object],
) -> Assigned:
    """Ask all at once: they load at the same time, and others may do something meanwhile. What has
    to be packed first they are told of layer by layer, so that they fetch it meanwhile. `fills`: of
    those that are to make theirs. `between` is called after each layer that is packed."""
    names = {device: worker.worker for device, worker in workers.items()}

    def coming(device: DeviceId, tiles: list[Tile]) -> None:
        name = names.get(device)
        if name is not None:
            control_session.put(
                control.worker_key(terms.cluster, name) + "/coming",
                encode(Coming(terms.session, epoch, terms.width, tiles)),
                congestion_control=zenoh.CongestionControl.BLOCK,
            )

    shards = holdings.shards(coming, between)
    pending = []
    for device, worker in workers.items():
        assignment = Assignment(
            control_version=CONTROL_VERSION,
            session=terms.session,
            key=terms.key,
            device=device,
            epoch=epoch,
            root_address=local_address_towards(address_of(worker)[0]),
            root_port=terms.root_port,
            transport=terms.transport,
            x_wire=terms.wire.x,
            partial_wire=terms.wire.partial,
            width=terms.width,
            max_tokens=terms.layout.max_tokens,
            max_payload=terms.layout.max_payload,
            window=terms.layout.window,
            shards=shards[device].resident,
            streamed=shards[device].streamed,
            replicas=shards[device].replicas,
            holders=holdings.holders(device, names),
            fill=fills.get(device),
            trace=terms.trace,
        )
        question = control.worker_key(terms.cluster, worker.worker) + "/assign"
        replies = control_session.get(
            question, payload=encode(assignment), timeout=ASSIGN_TIMEOUT_S
        )
        pending.append((worker.worker, replies))
    return Assigned(pending)


def leave_out(
    control_session: zenoh.Session, terms: Terms, epoch: int, workers: Iterable[WorkerInfo]
) -> None:
    """Tell those that have no part in that epoch, which is to be used from now on."""
    for worker in workers:
        control_session.put(
            control.worker_key(terms.cluster, worker.worker) + "/left-out",
            encode(LeftOut(terms.session, epoch)),
            congestion_control=zenoh.CongestionControl.BLOCK,
        )


def address_of(worker: WorkerInfo) -> tuple[str, int]:
    """Where it receives rounds: on the network that we share, as far as addresses tell."""
    # The first of equals.
    return max(worker.addresses, key=shared_bits), worker.port

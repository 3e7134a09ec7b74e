"""The root's end of the links to its workers: where rounds come in, and how much may be under way.

What travels on them is none of this file's business.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Mapping

from halo_edge.cluster import tcp, udp
from halo_edge.cluster.addresses import local_address_towards
from halo_edge.cluster.assigning import Terms, address_of
from halo_edge.cluster.links import RootLink
from halo_edge.cluster.messages import Transport, WorkerInfo
from halo_edge.cluster.round_layout import round_layout
from halo_edge.compute.wire import Wire, WireCodec
from halo_edge.model.hparams import HyperParameters
from halo_edge.sync.ids import DeviceId


class RootEnd:
    """Bound when it is made, so that workers can be told of it; `open` it when they know."""

    def __init__(self, transport: Transport, workers: Mapping[DeviceId, WorkerInfo]) -> None:
        """Raises `HaloError` where no port can be had."""
        self._transport = transport
        self._port = 0
        self._max_payload, self._window = tcp.MAX_PAYLOAD, udp.MAX_WINDOW
        self._addresses = {device: address_of(worker) for device, worker in workers.items()}
        self._socket: socket.socket | None = None
        self._udp: udp.UdpRootLink | None = None
        self._link: RootLink | None = None
        if transport is Transport.UDP:
            # One interface only where that reaches all workers, such as loopback.
            towards = {local_address_towards(address) for address, _ in self._addresses.values()}
            self._socket = udp.bind(towards.pop() if len(towards) == 1 else "0.0.0.0", 0)
            self._port = self._socket.getsockname()[1]
            self._max_payload = udp.MAX_PAYLOAD
            self._window = udp.window(self._socket, len(self._addresses))

    def terms(
        self,
        cluster: str,
        session: str,
        params: HyperParameters,
        wire: Wire,
        max_tokens: int,
        *,
        trace: bool,
    ) -> Terms:
        """What workers of a session are told of its rounds, with a key of its own."""
        layout = round_layout(
            WireCodec(wire.x, params.hidden),
            WireCodec(wire.partial, params.hidden),
            n_layers=params.n_layers,
            max_tokens=max_tokens,
            max_payload=self._max_payload,
            window=self._window,
        )
        return Terms(
            cluster=cluster,
            session=session,
            key=os.urandom(32),
            layout=layout,
            root_port=self._port,
            transport=self._transport,
            wire=wire,
            width=params.hidden,
            trace=trace,
        )

    @property
    def may_change(self) -> bool:
        """Whether workers can come and go."""
        return self._socket is not None

    def open(self, wrap: Callable[[RootLink], RootLink] | None) -> RootLink:
        """The link, with something put between. Raises `HaloError` for a worker that cannot be
        reached."""
        link: RootLink
        if self._socket is not None:
            link = self._udp = udp.UdpRootLink(self._socket, self._addresses)
        else:
            link = tcp.TcpRootLink(self._addresses)
        self._link = wrap(link) if wrap is not None else link
        return self._link

    def reach(self, workers: Mapping[DeviceId, WorkerInfo]) -> None:
        """From now on these are where they say. Any thread may say so; over UDP only."""
        assert self._udp is not None
        for device, worker in workers.items():
            self._udp.reach(device, address_of(worker))

    def hears(self, worker: WorkerInfo) -> bool:
        """Whether what that worker sends is received. Over UDP only."""
        assert self._udp is not None
        return self._udp.reaches(local_address_towards(address_of(worker)[0]))

    def close(self) -> None:
        if self._link is not None:
            self._link.close()

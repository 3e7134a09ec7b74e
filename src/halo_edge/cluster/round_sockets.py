"""The sockets on which a worker waits for rounds: UDP and TCP on one port, announced before it is
known which of them its root will use.
"""

from __future__ import annotations

import socket
from typing import Final

from halo_edge.cluster import tcp, udp
from halo_edge.errors import HaloError

# A port that is free for UDP is rarely taken for TCP.
ANY_PORT_TRIES: Final = 16


def listen(address: str, port: int) -> tuple[socket.socket, socket.socket]:
    """UDP and TCP on the same port; 0: any that is free for both. Raises `HaloError`."""
    tries = 1 if port else ANY_PORT_TRIES
    while True:
        datagrams = udp.bind(address, port)
        try:
            return datagrams, tcp.listen(address, datagrams.getsockname()[1])
        except HaloError:
            datagrams.close()
            tries -= 1
            if not tries:
                raise

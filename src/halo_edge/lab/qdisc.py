"""The netem qdiscs of a network interface: set, changed and read over netlink. Nothing here knows
of links.

Messages are put together of pyroute2's parts, but sent by ourselves: its `tc("add", "netem")`
leaves out what is zero, and the kernel keeps what a message leaves out.
"""

from __future__ import annotations

import ctypes
import os
import socket
import struct
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

from pyroute2 import IPRoute
from pyroute2.netlink import (
    NETLINK_ROUTE,
    NLM_F_ACK,
    NLM_F_CREATE,
    NLM_F_ECHO,
    NLM_F_REPLACE,
    NLM_F_REQUEST,
    NLMSG_ERROR,
)
from pyroute2.netlink.exceptions import NetlinkError
from pyroute2.netlink.rtnl import RTM_DELQDISC, RTM_GETQDISC, RTM_NEWQDISC, TC_H_ROOT
from pyroute2.netlink.rtnl.tcmsg import tcmsg

from halo_edge.lab.enter import CLONE_NEWNET
from halo_edge.lab.netem import Netem

TIMEOUT_S: Final = 5.0
MAX_REPLY_BYTES: Final = 1 << 16
MAX_KEPT_MESSAGES: Final = 1000
_HEADER: Final = struct.Struct("=IHHIIi")  # struct nlmsghdr, and an error's code
# The handles of the two qdiscs, 1: and 2:, and the class of the first that the second is in.
_OUTER: Final = 0x1_0000
_INNER: Final = 0x2_0000
_IN_OUTER: Final = 0x1_0001


@dataclass(frozen=True)
class Books:
    """What passed a qdisc. `dropped`: by it, and by the one in it."""

    sent: int = 0
    dropped: int = 0
    waiting: int = 0


class Qdiscs:
    """A netem qdisc at the interface of index `index`, and perhaps one in it.

    In the namespace of the thread that makes this. Every method raises OSError.
    """

    def __init__(self, index: int) -> None:
        self._index = index
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_ROUTE)
        self._socket.settimeout(TIMEOUT_S)

    def set_outer(self, netem: Netem) -> None:
        """Make or change it. The packets in it stay."""
        self._put(_OUTER, TC_H_ROOT, netem)

    def set_inner(self, netem: Netem) -> None:
        """Make or change the one in the other."""
        self._put(_INNER, _IN_OUTER, netem)

    def remove_inner(self) -> None:
        """With the packets in it."""
        message = _message(self._index, _INNER, _IN_OUTER)
        self._request(_encoded(message, RTM_DELQDISC, NLM_F_ACK))

    def outer_books(self) -> Books:
        return self._books(_OUTER)

    def inner_books(self) -> Books:
        return self._books(_INNER)

    def close(self) -> None:
        self._socket.close()

    def _put(self, handle: int, parent: int, netem: Netem) -> None:
        self._request(_set_message(self._index, handle, parent, netem))

    def _books(self, handle: int) -> Books:
        message = _message(self._index, handle, 0)
        answer = tcmsg(self._request(_encoded(message, RTM_GETQDISC, NLM_F_ECHO)))
        answer.decode()
        counted = answer.get_attr("TCA_STATS2")
        queue = counted.get_attr("TCA_STATS_QUEUE")
        sent = counted.get_attr("TCA_STATS_BASIC")["packets"]
        return Books(sent, queue["drops"], queue["qlen"])

    def _request(self, message: bytes) -> bytes:
        self._socket.send(message)
        reply = self._socket.recv(MAX_REPLY_BYTES)
        _, kind, _, _, _, code = _HEADER.unpack_from(reply)
        if kind == NLMSG_ERROR and code:
            raise OSError(-code, os.strerror(-code))
        return reply


def available() -> bool:
    """Whether this kernel has what netem links need, and lets us: netem, bridge and veth.

    They are tried in a network namespace that ends with the attempt.
    """
    with ThreadPoolExecutor(1) as thread:  # the namespace is the thread's
        return thread.submit(_try).result()


def _try() -> bool:
    if ctypes.CDLL(None).unshare(CLONE_NEWNET) != 0:
        return False
    try:
        with IPRoute() as netlink:
            netlink.link("add", ifname="bridge", kind="bridge")
            netlink.link("add", ifname="one", kind="veth", peer={"ifname": "other"})
            qdiscs = Qdiscs(netlink.link_lookup(ifname="one")[0])
        try:
            qdiscs.set_outer(Netem())
            qdiscs.set_inner(Netem())
        finally:
            qdiscs.close()
    except (NetlinkError, OSError):
        return False
    return True


@lru_cache(MAX_KEPT_MESSAGES)  # a link in bursts says the same two again and again
def _set_message(index: int, handle: int, parent: int, netem: Netem) -> bytes:
    message = _message(index, handle, parent)
    message["attrs"] = [("TCA_KIND", "netem"), ("TCA_OPTIONS", _options(netem))]
    return _encoded(message, RTM_NEWQDISC, NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE)


def _message(index: int, handle: int, parent: int) -> Any:
    message = tcmsg()
    message["index"], message["handle"], message["parent"] = index, handle, parent
    return message


def _encoded(message: Any, kind: int, flags: int) -> bytes:
    message["header"]["type"], message["header"]["flags"] = kind, NLM_F_REQUEST | flags
    message.encode()
    return bytes(message.data)


def _options(netem: Netem) -> dict[str, Any]:
    """As pyroute2 wants them."""
    return {
        "delay": netem.delay,
        "jitter": netem.jitter,
        "limit": netem.limit,
        "loss": netem.loss,
        "duplicate": netem.duplicate,
        "gap": 0,
        "attrs": [
            ("TCA_NETEM_CORRUPT", {"prob_corrupt": netem.corrupt, "corr_corrupt": 0}),
            (
                "TCA_NETEM_RATE",
                {"rate": netem.rate, "packet_overhead": 0, "cell_size": 0, "cell_overhead": 0},
            ),
        ],
    }

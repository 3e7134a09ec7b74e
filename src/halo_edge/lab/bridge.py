"""A bridge of the kernel's, in a network namespace that is this process's alone, and a cable (a
pair of interfaces) from it to each of other namespaces.

One packet is one frame on these cables, and nothing is sent that no process sends. Nothing here
knows of labs or links.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
from pathlib import Path
from typing import Final

from pyroute2 import IPRoute
from pyroute2.ethtool.ioctl import IoctlEthtool
from pyroute2.netlink.exceptions import NetlinkError

from halo_edge.errors import HaloError
from halo_edge.lab.enter import CLONE_NEWNET
from halo_edge.lab.namespaces import inside

BRIDGE: Final = "bridge"
NO_IPV6: Final = Path("/proc/sys/net/ipv6/conf/all/disable_ipv6")
NTF_MASTER: Final = 0x04  # the address is known to the bridge, not to its port
NUD_NOARP: Final = 0x40  # it stays
# With these a "packet" of 64 KB would be lost, or delayed, as one.
OFFLOADS: Final = (
    "tcp-segmentation-offload",
    "generic-segmentation-offload",
    "generic-receive-offload",
    "tx-checksumming",
)


class Bridge:
    """The bridge ends with this process, and the interfaces with the bridge."""

    def __init__(self) -> None:
        """Moves this process to a network namespace of its own. Raises `HaloError`."""
        if ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWNET) != 0:
            reason = os.strerror(ctypes.get_errno())
            raise HaloError(f"cannot make a network namespace for the bridge: {reason}")
        try:
            with contextlib.suppress(FileNotFoundError):  # a kernel without IPv6
                NO_IPV6.write_text("1")  # neither router solicitations nor multicast reports
            self._netlink = IPRoute()
            # At once, without looking for loops; multicast goes to everybody.
            self._netlink.link(
                "add",
                ifname=BRIDGE,
                kind="bridge",
                br_stp_state=0,
                br_forward_delay=0,
                br_mcast_snooping=0,
            )
            (self._index,) = self._netlink.link_lookup(ifname=BRIDGE)
            self._netlink.link("set", index=self._index, state="up")
        except (OSError, NetlinkError) as error:
            raise _no_bridge(error) from None

    def join(self, namespace: str, interface: str, mac: str) -> tuple[int, int]:
        """Make `interface` in `namespace`, with the MAC address `mac`, and a port for it.

        The two indices: the interface's, in the namespace, and the port's, in this one. The port
        takes what is for `mac` or for many, and learns nothing. Raises `HaloError`.
        """
        netlink, port = self._netlink, f"port-{mac.replace(':', '')[-8:]}"
        try:
            there = {"ifname": interface, "address": mac, "net_ns_fd": namespace}
            netlink.link("add", ifname=port, kind="veth", peer=there)
            (index,) = netlink.link_lookup(ifname=port)
            netlink.link("set", index=index, master=self._index, state="up")
            netlink.brport("set", index=index, learning=0, unicast_flood=0)
            netlink.fdb("add", ifindex=index, lladdr=mac, flags=NTF_MASTER, state=NUD_NOARP)
            _switch_offloads_off(port)
            with inside(namespace), IPRoute() as others:
                _switch_offloads_off(interface)
                (inner,) = others.link_lookup(ifname=interface)
        except (OSError, NetlinkError) as error:
            raise _no_bridge(error) from None
        return inner, index


def _switch_offloads_off(interface: str) -> None:
    ethtool = IoctlEthtool(interface)
    try:
        for offload in OFFLOADS:
            ethtool.set_offload_flag(offload, False)
    finally:
        ethtool.close()


def _no_bridge(error: Exception) -> HaloError:
    return HaloError(f"cannot make the lab's bridge: {error}")

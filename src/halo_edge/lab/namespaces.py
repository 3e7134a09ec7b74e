"""Network namespaces: made, joined to a network, found again and taken away.

Nothing here knows of labs or links.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from ipaddress import ip_interface
from pathlib import Path
from typing import Final

from pyroute2 import NetNS, netns

from halo_edge.errors import HaloError

DIRECTORY: Final = Path("/run/netns")  # where `ip netns` looks, too
# Frames that may wait for the forwarder; some 15 MB.
QUEUE_FRAMES: Final = 10_000
# Linux's default, which the host may have replaced (BBR hides the stalls that loss causes).
CONGESTION_CONTROL: Final = "cubic"
PERMANENT: Final = "permanent"


def create(name: str) -> None:
    """Raises `HaloError` where that is not allowed, or there is one of the name."""
    try:
        netns.create(name)
    except OSError as error:
        raise HaloError(f"cannot make the network namespace {name}: {error.strerror}") from None


def remove(name: str) -> None:
    """It goes when its last process does. No error if there is none."""
    with contextlib.suppress(FileNotFoundError):
        netns.remove(name)


def existing(prefix: str) -> list[str]:
    """The names that begin with `prefix`."""
    return sorted(name for name in netns.listnetns() if name.startswith(prefix))


@contextmanager
def inside(name: str) -> Iterator[None]:
    """This thread's network is the namespace's meanwhile."""
    ours = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        netns.setns(name)
        try:
            yield
        finally:
            netns.setns(ours)
    finally:
        os.close(ours)


def configure(
    name: str, interface: str, address: str, prefix_length: int, neighbours: Mapping[str, str]
) -> None:
    """Bring `interface` and loopback up, with an address, and nothing that sends by itself.

    `neighbours`: MAC addresses by IP address; no packet of ARP is sent for them, that could be
    lost. Raises `HaloError`.
    """
    network = ip_interface(f"{address}/{prefix_length}").network
    try:
        with inside(name):  # no router solicitations, no duplicate address detection
            Path("/proc/sys/net/ipv6/conf/all/disable_ipv6").write_text("1")
    except FileNotFoundError:
        pass  # a kernel without IPv6
    except OSError as error:
        raise HaloError(f"cannot configure the namespace {name}: {error.strerror}") from None
    with NetNS(name) as netlink:
        netlink.link("set", index=netlink.link_lookup(ifname="lo")[0], state="up")
        index = netlink.link_lookup(ifname=interface)[0]
        netlink.link("set", index=index, state="up", txqlen=QUEUE_FRAMES)
        netlink.addr("add", index=index, address=address, prefixlen=prefix_length)
        for ip, mac in neighbours.items():
            netlink.neigh("add", ifindex=index, dst=ip, lladdr=mac, state=PERMANENT)
        netlink.route(
            "replace",
            dst=str(network),
            oif=index,
            prefsrc=address,
            scope="link",
            proto="kernel",
            metrics={"cc_algo": CONGESTION_CONTROL},
        )
        netlink.route("add", dst="224.0.0.0/4", oif=index)  # discovery by multicast


def frames_dropped(name: str, interface: str) -> int:
    """How many frames the queue of `interface` had no room for."""
    with NetNS(name) as netlink:
        (link,) = netlink.link("get", ifname=interface)
        return int(link.get_attr("IFLA_STATS64")["tx_dropped"])

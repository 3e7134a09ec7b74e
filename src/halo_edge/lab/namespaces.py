"""Network namespaces: made, joined to a network, found again and taken away.

Nothing here knows of labs or links.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from ipaddress import ip_interface
from pathlib import Path
from typing import Final

from pyroute2 import IPRoute, netns
from pyroute2.netlink.exceptions import NetlinkError

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
    """This thread's network is the namespace's meanwhile. Raises `HaloError` if there is none."""
    ours = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        try:
            netns.setns(name, flags=0)  # by default it would make what is not there
        except OSError as error:
            raise _cannot(name, error) from None
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
    with _netlink(name) as netlink:
        # No router solicitations, no duplicate address detection.
        with contextlib.suppress(FileNotFoundError):  # a kernel without IPv6
            Path("/proc/sys/net/ipv6/conf/all/disable_ipv6").write_text("1")
        netlink.link("set", index=_index(netlink, "lo"), state="up")
        index = _index(netlink, interface)
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
    """How many frames the queue of `interface` had no room for. Raises `HaloError`."""
    with _netlink(name) as netlink:
        (link,) = netlink.link("get", index=_index(netlink, interface))
        return int(link.get_attr("IFLA_STATS64")["tx_dropped"])


@contextmanager
def _netlink(name: str) -> Iterator[IPRoute]:
    """Talk to the kernel about the namespace, and be inside. Raises `HaloError`."""
    try:
        with inside(name), IPRoute() as netlink:
            yield netlink
    except (OSError, NetlinkError) as error:
        raise _cannot(name, error) from None


def _index(netlink: IPRoute, interface: str) -> int:
    for index in netlink.link_lookup(ifname=interface):
        return int(index)
    raise OSError(errno.ENODEV, f"no interface {interface}")


def _cannot(name: str, error: Exception) -> HaloError:
    reason = error.strerror if isinstance(error, OSError) and error.strerror else error
    return HaloError(f"cannot enter or change the network namespace {name}: {reason}")

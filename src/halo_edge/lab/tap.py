"""A TAP device: a network interface whose frames this process reads and writes."""

from __future__ import annotations

import fcntl
import os
import struct
from typing import Final

from halo_edge.errors import HaloError
from halo_edge.lab.namespaces import inside

MAX_FRAME: Final = 1514  # Ethernet's header and 1500 bytes
TUNSETIFF: Final = 0x4004_54CA
SIOCSIFHWADDR: Final = 0x8924
IFF_TAP: Final = 0x0002
IFF_NO_PI: Final = 0x1000
ARPHRD_ETHER: Final = 1


def open_tap(namespace: str, interface: str, mac: str) -> int:
    """A file descriptor, not blocking. The interface goes with it.

    Without offload flags the kernel cuts what it sends into frames of at most `MAX_FRAME` bytes.
    Raises `HaloError`, e.g. where the kernel has no TAP devices.
    """
    try:
        with inside(namespace):  # where the device is opened, there the interface is made
            fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            fcntl.ioctl(fd, TUNSETIFF, _request(interface, "H22x", IFF_TAP | IFF_NO_PI))
            address = bytes.fromhex(mac.replace(":", ""))
            fcntl.ioctl(fd, SIOCSIFHWADDR, _request(interface, "H6s16x", ARPHRD_ETHER, address))
        except BaseException:
            os.close(fd)
            raise
    except OSError as error:
        raise HaloError(f"cannot make a TAP device in {namespace}: {error.strerror}") from None
    return fd


def _request(interface: str, layout: str, *values: object) -> bytes:
    """A `struct ifreq`."""
    return struct.pack(f"16s{layout}", interface.encode(), *values)

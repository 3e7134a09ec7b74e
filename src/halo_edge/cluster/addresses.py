"""Under which addresses this machine can be reached, and by which it reaches others (IPv4)."""

from __future__ import annotations

import errno
import ipaddress
import socket

from halo_edge.errors import HaloError


def own_addresses(bound: str) -> list[str]:
    """The IPv4 addresses under which rounds can reach this machine, loopback last."""
    if bound != "0.0.0.0":
        return [bound]
    import ifaddr  # a megabyte, which a worker bound to one address does not need

    found = [ip.ip for a in ifaddr.get_adapters() for ip in a.ips if isinstance(ip.ip, str)]
    return sorted(found, key=lambda ip: ip.startswith("127."))[:32]


def local_address_towards(address: str) -> str:
    """The address of this machine from which packets to `address` go out."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((address, 9))
        except OSError as error:
            raise HaloError(f"no way to {address} ({error.strerror})") from None
        name: str = probe.getsockname()[0]
        return name


def shared_bits(address: str) -> int:
    """How likely `address` is a neighbour's: the leading bits it has in common with ours.

    Routes alone do not tell, as everything has one through a gateway. 0 for an address that we have
    as well (such as that of a bridge for containers); -1 where there is no way.
    """
    try:
        ours = local_address_towards(address)
    except HaloError:
        return -1
    if address == ours or address.startswith("127."):
        return 0
    different = int(ipaddress.IPv4Address(address)) ^ int(ipaddress.IPv4Address(ours))
    return 32 - different.bit_length()


def cannot_bind(protocol: str, address: str, port: int, error: OSError) -> HaloError:
    """Why a worker cannot receive there."""
    if error.errno == errno.EADDRINUSE:
        return HaloError(
            f"port taken: {protocol} {address}:{port} is in use; choose another with --port"
        )
    return HaloError(
        f"cannot receive at {protocol} {address}:{port} ({error.strerror}); "
        f"choose another --address or --port"
    )

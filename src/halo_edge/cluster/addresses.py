"""Under which addresses this machine can be reached, and by which it reaches others (IPv4)."""

from __future__ import annotations

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

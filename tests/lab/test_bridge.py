"""The bridge, in a process of its own: it moves to another network namespace."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest

from halo_edge.lab import namespaces

NAMES = [f"halo.test-bridge.n{i}" for i in range(3)]
PROGRAM = """
import socket, sys
from pyroute2 import NetNS
from halo_edge.lab import namespaces
from halo_edge.lab.bridge import Bridge

names = sys.argv[1:]
macs = {f"10.77.0.{i + 1}": f"02:00:00:00:00:0{i + 1}" for i in range(len(names))}
bridge = Bridge()
for name, mac in zip(names, macs.values()):
    bridge.join(name, "lan0", mac)
sockets = []
for name, address in zip(names, macs):
    others = {ip: mac for ip, mac in macs.items() if ip != address}
    namespaces.configure(name, "lan0", address, 24, others)
    with namespaces.inside(name):
        for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
            sockets.append(socket.socket(socket.AF_INET, kind))
            sockets[-1].bind((address, 5000))
            sockets[-1].settimeout(5)

def received(name):
    with NetNS(name) as netlink:
        stats = netlink.link("get", ifname="lan0")[0].get_attr("IFLA_STATS64")
        return stats["rx_packets"], stats["rx_bytes"]

before = [received(name) for name in names]
sockets[0].sendto(b"one", ("10.77.0.2", 5000))
print(sockets[2].recv(99), [received(n)[0] - b[0] for n, b in zip(names, before)])

members = []
for name, address in list(zip(names, macs))[1:]:
    with namespaces.inside(name):
        members.append(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    members[-1].bind(("224.1.2.3", 6000))
    group = socket.inet_aton("224.1.2.3") + socket.inet_aton(address)
    members[-1].setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, group)
    members[-1].settimeout(5)
sockets[0].sendto(b"all", ("224.1.2.3", 6000))
print(*(member.recv(99) for member in members))

sockets[3].listen()
sockets[1].connect(("10.77.0.2", 5000))
server, _ = sockets[3].accept()
before = received(names[1])
sockets[1].sendall(bytes(100_000))
sockets[1].shutdown(socket.SHUT_WR)
while server.recv(1 << 16):
    pass
packets, nbytes = (now - b for now, b in zip(received(names[1]), before))
print(nbytes / packets < 1515, packets >= 100_000 / 1460)
"""


@pytest.fixture
def three(root_user: None) -> Iterator[list[str]]:
    for name in NAMES:
        namespaces.create(name)
    yield NAMES
    for name in NAMES:
        namespaces.remove(name)


def test_frames_reach_whom_they_are_for_one_by_one(three: list[str]) -> None:
    """One packet to one, a multicast to all, and no TCP packet larger than a frame."""
    command = [sys.executable, "-c", PROGRAM, *three]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    lines = done.stdout.splitlines()
    if "Operation not supported" in done.stderr:
        pytest.skip("this kernel has no bridge or veth")
    assert lines == ["b'one' [0, 1, 0]", "b'all' b'all'", "True True"], done.stderr
